"""Evaluating a model, and what that measured, with an interval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch, call
from deadhead.display import Brief
from deadhead.errors import DataError, ScoreError
from deadhead.losses.answers import is_span, logits_of
from deadhead.models.hooks import eval_mode

# numbers drawn at once by the bootstrap; bounds its memory, not its result
_DRAWN_AT_ONCE = 2_000_000
DRAWS, DEAR_DRAWS = 1000, 200  # resamples of a mean; of a metric that is computed anew for each


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Brief):
    """The value of a model's metric on a task, and the examples that it is made of.

    Attributes:
        metric: name of the metric, e.g. `accuracy`.
        value: the metric over all examples.
        metrics: everything that was measured, `metric` included.
        per_example: shape (examples,), in the order of the data: 1 or 0 for correct or wrong, or
            the mean negative log-likelihood per token in nats; what the example shares in a metric
            that is no mean.
        weights: shape (examples,), tokens behind each example; None counts every example once.
        groups: shape (examples,), number of each example's paradigm; the value is then the mean
            over paradigms. None is one group.
        exponential: whether the value is exp of the mean, as a perplexity is.
        statistic: computes the value of the examples at some rows, of a metric that is no mean
            (correlation, macro F1); it may be NaN or refuse where these rows do not define it.
    """

    metric: str
    value: float
    metrics: Mapping[str, float]
    per_example: np.ndarray
    weights: np.ndarray | None = field(default=None, repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)
    exponential: bool = False
    statistic: Callable[[np.ndarray], float] | None = field(default=None, repr=False)

    def interval(
        self, level: float = 0.95, draws: int | None = None, seed: int = 0
    ) -> tuple[float, float]:
        """Bound the value by a percentile bootstrap over examples.

        Examples are resampled within their paradigm, since the paradigms are fixed. Draws for which
        a `statistic` is not defined (a correlation of equal numbers) are left out; if all are, the
        ends are NaN.

        Shape: (low, high).
        Unit: the metric's.
        Cost: draws x examples random numbers, and of a `statistic` a call per draw; no pass of the
            model. By default 1000 draws, of a `statistic` 200.
        """
        if not 0 < level < 1:
            raise DataError(f"level {level!r} is not in (0, 1); for a 95% interval give 0.95")
        if draws is None:
            draws = DRAWS if self.statistic is None else DEAR_DRAWS
        if draws < 1:
            raise DataError(f"{draws!r} draws make no interval; give 1 or more, 1000 is usual")
        rng = np.random.default_rng(seed)
        values = self._means(rng, draws) if self.statistic is None else self._values(rng, draws)
        values = values[~np.isnan(values)]
        if not len(values):
            return float("nan"), float("nan")
        ends = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(values, ends, method="inverted_cdf")  # infinities do not mix
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Return the metric, the value and all metrics as a JSON value, without the examples."""
        return {"metric": self.metric, "value": self.value, "metrics": dict(self.metrics)}

    def _values(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Compute the statistic of resampled examples; NaN where it is not defined."""
        n, found = len(self.per_example), np.full(draws, np.nan)
        for draw in range(draws):
            with suppress(DataError), np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of metrics of one class, of equal numbers
                found[draw] = self.statistic(rng.integers(0, n, size=n))  # type: ignore[misc]
        return found

    def _means(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """Average resampled examples within each paradigm, then over paradigms."""
        of = np.zeros(len(self.per_example)) if self.groups is None else self.groups
        rows = [np.flatnonzero(of == group) for group in np.unique(of)]
        values = np.mean([self._resampled(rng, each, draws) for each in rows], axis=0)
        if self.exponential:
            with np.errstate(over="ignore"):  # a ruined model's perplexity is infinite
                values = np.exp(values)
        return values

    def _resampled(self, rng: np.random.Generator, rows: np.ndarray, draws: int) -> np.ndarray:
        x = self.per_example[rows]
        w = np.ones(len(rows)) if self.weights is None else self.weights[rows]
        xw, means = x * w, []
        at_once = max(1, _DRAWN_AT_ONCE // len(rows))
        for start in range(0, draws, at_once):
            n = min(at_once, draws - start)
            drawn = rng.integers(0, len(rows), size=(n, len(rows)))  # (draws, examples)
            with np.errstate(invalid="ignore"):  # of a draw without any weight: NaN
                means.append(xw[drawn].sum(1) / w[drawn].sum(1))
        return np.concatenate(means)


def ratio_of_sums(over: np.ndarray, under: np.ndarray) -> tuple[float, np.ndarray]:
    """Divide the sums of two columns, and the columns themselves; 0 where there is nothing.

    The ratio is the mean of the second, (examples,), weighted by `under`: what F1 and error rates
    need for an interval.
    """
    shares = np.divide(over, under, out=np.zeros(len(under)), where=np.asarray(under) > 0)
    total = float(np.sum(under))
    return (float(np.sum(over)) / total if total else 0.0), shares


def cannot_judge(name: str, number: int, of: int) -> ScoreError:
    """Build the error for the first batch whose logits are not finite; `name` is the task's."""
    return ScoreError(
        f"the logits of batch {number} of {of} of {name!r} are not finite, and NaN is neither right"
        " nor wrong; compute with --dtype float32, or look with 'deadhead score --diagnose'"
    )


def judged_logits(model: nn.Module, outputs: Any) -> torch.Tensor:
    """Return the logits that outputs hold; of a span (samples, tokens, start or end).

    Raises:
        DataError: there are none: the model has no head.
    """
    if not (isinstance(outputs, torch.Tensor) or hasattr(outputs, "logits") or is_span(outputs)):
        raise DataError(
            f"a {type(model).__name__} gives no logits to judge; use a model with a head on"
            " top, e.g. ...ForSequenceClassification or ...ForCausalLM"
        )
    return logits_of(outputs)


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Make NaN of infinite logits: neither can be judged."""
    return logits.masked_fill(~logits.isfinite(), math.nan)


def other_shape(model: nn.Module, values: torch.Tensor, wanted: str, kind: str) -> DataError:
    """Build the error for outputs of another shape than a kind of task judges."""
    return DataError(
        f"a {type(model).__name__} gives predictions of shape {list(values.shape)}, and task kind"
        f" {kind!r} wants {wanted}; use a model that is made for this kind, or another --kind"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Callable[[Batch], Any]]:
    """Give a function from a batch to outputs, without dropout, gradients or a cache.

    The model is left as found, also after an exception.
    """
    config = getattr(model, "config", None)
    cached = bool(getattr(config, "use_cache", False))
    if config is not None and cached:
        config.use_cache = False
    try:
        with eval_mode(model), torch.inference_mode():
            yield lambda batch: call(model, batch)
    finally:
        if config is not None and cached:
            config.use_cache = True
