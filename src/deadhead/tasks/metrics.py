"""A metric of the user's own: `compute_metrics`, as transformers' Trainer takes it."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deadhead.display import Brief
from deadhead.errors import DataError, ScoreError, unknown_name
from deadhead.files import as_path, one_line
from deadhead.tasks.evaluation import Evaluation

if TYPE_CHECKING:
    from deadhead.tasks.judging import Judging

ComputeMetrics = Callable[[Any], Mapping[str, Any]]
IGNORED = -100  # pads predictions and labels of different lengths, as the Trainer does


@dataclass(frozen=True, repr=False)
class OwnMetrics(Brief):
    """A function from predictions and labels to named numbers, and what calls it by what name.

    Attributes:
        compute: takes a `transformers.EvalPrediction`, returns a dictionary of numbers.
        name: what messages call it.
    """

    compute: ComputeMetrics
    name: str = "compute_metrics"

    def __call__(self, predictions: Any, label_ids: Any) -> dict[str, float]:
        """Compute the numbers; entries of other types are left out.

        Raises:
            DataError: it fails, or returns no dictionary of numbers.
        """
        from transformers import EvalPrediction

        try:
            found = self.compute(EvalPrediction(predictions=predictions, label_ids=label_ids))
        except Exception as error:  # any code of the user's
            raise DataError(
                f"{self.name} fails on predictions of shape {_shape(predictions)} and label_ids of"
                f" shape {_shape(label_ids)} ({one_line(error) or type(error).__name__}); correct"
                " the function"
            ) from error
        if not isinstance(found, Mapping):
            raise DataError(
                f"{self.name} returns a {type(found).__name__}; return a dictionary of numbers,"
                " such as {'accuracy': 0.9}"
            )
        numbers = {str(name): _number(value) for name, value in found.items()}
        numbers = {name: value for name, value in numbers.items() if value is not None}
        if not numbers:
            held = ", ".join(f"{k!r}: {v!r:.30}" for k, v in list(found.items())[:3]) or "nothing"
            raise DataError(
                f"{self.name} returns no number, but {held}; return a dictionary of numbers, such"
                " as {'accuracy': 0.9}"
            )
        return numbers

    def of(self, predictions: Any, label_ids: Any, metric: str) -> dict[str, float]:
        """Compute the numbers, with `metric` among them and not NaN.

        Raises:
            DataError: it is not among them.
            ScoreError: it is NaN.
        """
        found = self(predictions, label_ids)
        if metric not in found:
            raise unknown_name(f"metric of {self.name}:", metric, found)
        if math.isnan(found[metric]):
            raise ScoreError(
                f"{self.name} gives NaN as {metric!r}; return a number, or name another --metric"
                f" (metric) of {', '.join(found)}"
            )
        return found


def own_evaluation(task: Judging, compute: OwnMetrics, answers: Sequence[Any]) -> Evaluation:
    """Judging the answers to a task by a function of the user's own."""

    def measured(rows: np.ndarray) -> dict[str, float]:
        chosen = task.for_trainer([answers[row] for row in rows])
        return compute.of(chosen, task.references(rows), task.metric)

    found = measured(np.arange(task.size))
    nothing = np.full(task.size, np.nan)  # no example has a value of its own
    return Evaluation(
        task.metric,
        found[task.metric],
        found,
        nothing,
        statistic=lambda rows: measured(rows)[task.metric],
    )


def for_trainer(values: Sequence[Any]) -> Any:
    """Put the values of examples in one array, padded with -100 on the right; others in a list."""
    if not all(isinstance(value, np.ndarray | np.number | float | int) for value in values):
        return list(values)
    arrays = [np.asarray(value) for value in values]
    shape = np.max([array.shape for array in arrays], axis=0)
    whole = np.full((len(arrays), *shape), IGNORED, dtype=np.result_type(*arrays))
    for row, array in zip(whole, arrays, strict=True):
        row[tuple(slice(0, size) for size in array.shape)] = array
    return whole


def function_in(spec: str) -> ComputeMetrics:
    """Load `FILE.py:FUNCTION`. This runs the file.

    Raises:
        DataError: there is no such file or function, or the file fails.
    """
    place, colon, name = spec.rpartition(":")
    path = as_path(place, "a Python file")
    if not colon or not name.isidentifier() or path.suffix != ".py":
        raise DataError(f"{spec!r} names no function; write FILE.py:FUNCTION")
    if not path.is_file():
        raise DataError(f"there is no file {place!r}; give FILE.py:FUNCTION")
    made = importlib.util.spec_from_file_location(f"deadhead_metrics_{path.stem}", path)
    if made is None or made.loader is None:
        raise DataError(f"{place!r} cannot be loaded; give a Python file")
    module = importlib.util.module_from_spec(made)
    try:
        made.loader.exec_module(module)
    except Exception as error:  # any code of the user's
        said = one_line(error) or type(error).__name__
        raise DataError(f"{place!r} fails when it is loaded ({said}); correct it") from error
    found: Any = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if _is_own(value, module)]
        raise unknown_name(f"function of {Path(place).name}:", name, functions)
    return cast(ComputeMetrics, found)


def _is_own(value: Any, module: Any) -> bool:
    return callable(value) and getattr(value, "__module__", "") == module.__name__


def _number(value: Any) -> float | None:
    """Return a number, of numpy or torch too; None of anything else, truth values included."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "size", 0) == 1 and not isinstance(value, np.bool_):
        return _number(item())
    return None


def _shape(values: Any) -> Any:
    return list(values.shape) if isinstance(values, np.ndarray) else f"[{len(values)}]"
