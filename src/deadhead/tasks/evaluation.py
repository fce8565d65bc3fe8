"""Evaluating a model, and what that measured, with an interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch, call
from deadhead.display import Brief
from deadhead.errors import DataError, ScoreError
from deadhead.models.hooks import eval_mode

# numbers drawn at once by the bootstrap; bounds its memory, not its result
_DRAWN_AT_ONCE = 2_000_000


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Brief):
    """The value of a model's metric on a task, and the examples that it is made of.

    Attributes:
        metric: name of the metric, e.g. `accuracy`.
        value: the metric over all examples.
        metrics: everything that was measured, `metric` included.
        per_example: shape (examples,), in the order of the data: 1 or 0 for correct or wrong, or
            the mean negative log-likelihood per token in nats.
        weights: shape (examples,), tokens behind each example; None counts every example once.
        groups: shape (examples,), number of each example's paradigm; the value is then the mean
            over paradigms. None is one group.
        exponential: whether the value is exp of the mean, as a perplexity is.
    """

    metric: str
    value: float
    metrics: Mapping[str, float]
    per_example: np.ndarray
    weights: np.ndarray | None = field(default=None, repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)
    exponential: bool = False

    def interval(
        self, level: float = 0.95, draws: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """Bound the value by a percentile bootstrap over examples.

        Examples are resampled within their paradigm, since the paradigms are fixed.

        Shape: (low, high).
        Unit: the metric's.
        Cost: draws x examples random numbers; no pass of the model.
        """
        if not 0 < level < 1:
            raise DataError(f"level {level!r} is not in (0, 1); for a 95% interval give 0.95")
        if draws < 1:
            raise DataError(f"{draws!r} draws make no interval; give 1 or more, 1000 is usual")
        rng = np.random.default_rng(seed)
        of = np.zeros(len(self.per_example)) if self.groups is None else self.groups
        rows = [np.flatnonzero(of == group) for group in np.unique(of)]
        values = np.mean([self._resampled(rng, each, draws) for each in rows], axis=0)
        if self.exponential:
            with np.errstate(over="ignore"):  # a ruined model's perplexity is infinite
                values = np.exp(values)
        ends = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(values, ends, method="inverted_cdf")  # infinities do not mix
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Return the metric, the value and all metrics as a JSON value, without the examples."""
        return {"metric": self.metric, "value": self.value, "metrics": dict(self.metrics)}

    def _resampled(self, rng: np.random.Generator, rows: np.ndarray, draws: int) -> np.ndarray:
        x = self.per_example[rows]
        w = np.ones(len(rows)) if self.weights is None else self.weights[rows]
        xw, means = x * w, []
        at_once = max(1, _DRAWN_AT_ONCE // len(rows))
        for start in range(0, draws, at_once):
            n = min(at_once, draws - start)
            drawn = rng.integers(0, len(rows), size=(n, len(rows)))  # (draws, examples)
            means.append(xw[drawn].sum(1) / w[drawn].sum(1))
        return np.concatenate(means)


def cannot_judge(name: str, number: int, of: int) -> ScoreError:
    """Build the error for the first batch whose logits are not finite; `name` is the task's."""
    return ScoreError(
        f"the logits of batch {number} of {of} of {name!r} are not finite, and NaN is neither right"
        " nor wrong; compute with --dtype float32, or look with 'deadhead score --diagnose'"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Callable[[Batch], torch.Tensor]]:
    """Give a function from a batch to logits, without dropout, gradients or a cache.

    The model is left as found, also after an exception.
    """
    config = getattr(model, "config", None)
    cached = bool(getattr(config, "use_cache", False))

    def logits(batch: Batch) -> torch.Tensor:
        outputs = call(model, batch)
        if not isinstance(outputs, torch.Tensor) and not hasattr(outputs, "logits"):
            raise DataError(
                f"a {type(model).__name__} gives no logits to judge; use a model with a head on"
                " top, e.g. ...ForSequenceClassification or ...ForCausalLM"
            )
        return getattr(outputs, "logits", outputs)  # a module of the user's own gives a tensor

    if config is not None and cached:
        config.use_cache = False
    try:
        with eval_mode(model), torch.inference_mode():
            yield logits
    finally:
        if config is not None and cached:
            config.use_cache = True
