"""What one evaluation measured, with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deadhead.display import Brief
from deadhead.errors import DataError

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
        means = [self._resampled(rng, rows, draws) for rows in self._rows_per_group()]
        values = self._finish(np.mean(means, axis=0))
        ends = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(values, ends, method="inverted_cdf")  # infinities do not mix
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Return the metric, the value and all metrics as a JSON value, without the examples."""
        return {"metric": self.metric, "value": self.value, "metrics": dict(self.metrics)}

    def _rows_per_group(self) -> list[np.ndarray]:
        if self.groups is None:
            return [np.arange(len(self.per_example))]
        return [np.flatnonzero(self.groups == group) for group in np.unique(self.groups)]

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

    def _finish(self, means: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # a ruined model's perplexity is infinite
            return np.exp(means) if self.exponential else means
