"""The sets of a run from whatever a person holds: texts, a data set, batches, a task."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from torch import nn

from deadhead.data.batches import Batch, samples_in, take_samples
from deadhead.data.given import source_of
from deadhead.errors import DataError
from deadhead.losses.losses import Probe, held_out
from deadhead.models.purpose import purpose_of
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.metrics import ComputeMetrics
from deadhead.tasks.opening import open_task
from deadhead.tasks.task_set import TaskSet, judged_by

# of batches, every fifth sample is held out to compare the pruned model with the dense one
_COMPARED_EVERY = 5


class GivenBatches:
    """Batches that a person made, as a task that judges nothing.

    Args:
        batches: dictionaries of tensors, with labels or without.
        name: where they came from, for people.
    """

    kind = "batches"
    metric = "none"
    greater_is_better = True
    chance = None

    def __init__(self, batches: Sequence[Batch], name: str = "the batches") -> None:
        self.name = name
        self._batches = list(batches)
        self.size = sum(map(samples_in, self._batches))
        self.passes = len(self._batches)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with any number in the batches."""
        found = blake2b(digest_size=6)
        for batch in self._batches:
            for name, tensor in sorted(batch.items()):
                found.update(f"{name}{tuple(tensor.shape)}".encode())
                found.update(str(tensor.tolist()).encode())
        return found.hexdigest()

    def batches(self) -> list[Batch]:
        """Return the batches."""
        return [dict(batch) for batch in self._batches]

    def probes(self) -> list[Probe]:
        """Return every fourth sample, which repairs hold out of their fits."""
        return held_out(self._batches)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Refuse: there is no metric."""
        raise DataError(f"{self.name!r} can calibrate, not judge; give a test set with labels")


def as_tasks(
    data: Any,
    model: nn.Module,
    tokenizer: Any = None,
    *,
    calibration_size: int | None = 512,
    test_size: int | None = None,
    seed: int = 0,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    max_length: int | None = None,
    compute_metrics: ComputeMetrics | None = None,
    metric: str | None = None,
    greater_is_better: bool | None = None,
) -> TaskSet:
    """Make calibration and test sets for a model from whatever a person holds.

    What has labels that the model can be judged by, and text of a causal language model, is
    divided as by `open_task`. Of other data the same rows, and of batches every fifth sample, are
    the `held_out` set, and there is no test set.

    Args: as of `data.given.as_batches` and `open_task`.

    Raises:
        DataError: there are no data, or they do not fit the model.
        UnknownNameError: there is no such column or bundled set.
    """
    own = (compute_metrics, metric, greater_is_better)
    if isinstance(data, TaskSet):
        return judged_by(data, *own)
    if callable(getattr(data, "evaluate", None)) and hasattr(data, "probes"):  # one task
        alone = judged_by(TaskSet(data, None, data), *own)
        return TaskSet(alone.judge, None, None)
    source = source_of(data, model, calibration_size)
    if isinstance(source, list):
        return judged_by(_of_batches(source), *own)
    return open_task(
        source,
        tokenizer,
        config=model.config,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        calibration_size=calibration_size,
        test_size=test_size,
        seed=seed,
        batch_size=batch_size,
        max_tokens=max_tokens,
        max_length=max_length,
        judged=False,
        purpose=purpose_of(model),
        compute_metrics=compute_metrics,
        metric=metric,
        greater_is_better=greater_is_better,
    )


def _of_batches(batches: list[Batch]) -> TaskSet:
    parts: tuple[list[Batch], list[Batch]] = ([], [])
    first = 0
    for batch in batches:
        size = samples_in(batch)
        numbers = range(first, first + size)
        first += size
        for which, part in enumerate(parts):
            last = _COMPARED_EVERY - 1
            rows = [n - numbers[0] for n in numbers if (n % _COMPARED_EVERY == last) == bool(which)]
            if rows:
                part.append(take_samples(batch, rows))
    calibration, compared = map(GivenBatches, parts)
    return TaskSet(calibration, None, None, held_out=compared if compared.size else None)
