"""A run seen as a curve: the metric after each move, and what one reads off it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deadhead.display import Brief, number
from deadhead.display.html import head_map_html
from deadhead.errors import BudgetError, DataError
from deadhead.files import json_number, refusing
from deadhead.measure import Metric
from deadhead.types import Head, HeadMask

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Step(Brief):
    """One move: the mask after it, what it dropped, and what the model then scored.

    Attributes:
        mask: heads kept after the move.
        dropped: heads that this move dropped.
        metric: value on the set that the run was judged on (test; selection under a stopping
            rule), or NaN where the step was not evaluated.
        seconds: time for scoring and evaluation of this step.
        scores: score of each dropped head at the moment it was chosen.
    """

    mask: HeadMask
    dropped: tuple[Head, ...]
    metric: float
    seconds: float
    scores: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        return {
            "mask": self.mask.to_json(),
            "dropped": [str(h) for h in self.dropped],
            "metric": json_number(self.metric),
            "seconds": self.seconds,
            "scores": [repr(s) for s in self.scores],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Step:
        """Read what `to_json` returned.

        Raises:
            DataError: the data is not a step.
        """
        with refusing(DataError, "this is not a step of a run", "take it from a run.json"):
            mask = HeadMask.of(data["mask"])
            dropped = tuple(Head.parse(h) for h in data["dropped"])
            metric = float("nan") if data["metric"] is None else float(data["metric"])
            scores = tuple(float(s) for s in data["scores"])
            return cls(mask, dropped, metric, float(data["seconds"]), scores)


@dataclass(frozen=True, repr=False)
class Trajectory:
    """An immutable sequence of steps that starts at the model as it was given.

    Attributes:
        start: the model before the first move, evaluated (its `dropped` is empty).
        steps: the moves, in order; masks only shrink.
        metric: name of the metric, e.g. `accuracy`.
        greater_is_better: False for perplexity and losses.
    """

    start: Step
    steps: tuple[Step, ...]
    metric: str = "accuracy"
    greater_is_better: bool = True

    def __post_init__(self) -> None:
        before = self.start.mask
        for step in self.steps:
            if not step.mask <= before:
                raise BudgetError("a trajectory's masks only shrink; a step brings a head back")
            before = step.mask

    def __iter__(self) -> Iterator[Step]:
        return iter((self.start, *self.steps))

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        judged = [step for step in self if not np.isnan(step.metric)] or [self.start]
        last, said = judged[-1], f"{self.judged_by}, {len(self)} steps: dense {number(self.dense)}"
        removed = f"{len(last.mask.dropped)} of {last.mask.n_heads} heads removed"
        return f"Trajectory({said}, {number(last.metric)} with {removed})"

    def _repr_html_(self) -> str:
        return head_map_html([*self][-1].mask.kept, caption=repr(self))

    @property
    def judged_by(self) -> Metric:
        """The metric, with its direction."""
        return Metric(self.metric, self.greater_is_better)

    @property
    def dense(self) -> float:
        """Metric of the model before the first move."""
        return self.start.metric

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (sparsity, metric) of the evaluated steps, start included; each shape (steps,)."""
        points = [(s.mask.sparsity, s.metric) for s in self if not np.isnan(s.metric)]
        sparsity, metric = np.array(points, dtype=np.float64).T
        return sparsity, metric

    def at(self, *, sparsity: float) -> float:
        """Return the metric at a fraction of heads dropped, linear between evaluated steps.

        Unit: the metric's. NaN beyond the last step.
        """
        x, y = self.curve()
        return float(np.interp(sparsity, x, y, left=np.nan, right=np.nan))

    def largest_keeping(self, fraction: float) -> float:
        """Return the largest sparsity that keeps `fraction` of the dense quality.

        The curve need not be monotone: this is the last such step, as the published tables count.
        The metric is at least fraction * dense; where lower is better, at most dense / fraction.
        """
        x, y = self.curve()
        enough = self.judged_by.keeps(y, self.dense, fraction)
        return float(x[enough].max()) if enough.any() else 0.0

    def auc(self) -> float:
        """Return the area under the curve (trapezoids), divided by the sparsity it spans.

        Unit: the metric's.
        """
        x, y = self.curve()
        span = x[-1] - x[0]
        return float(np.trapezoid(y, x) / span) if span > 0 else float(y[0])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back to an equal trajectory."""
        return {
            "metric": self.metric,
            "greater_is_better": self.greater_is_better,
            "start": self.start.to_json(),
            "steps": [s.to_json() for s in self.steps],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trajectory:
        """Read what `to_json` returned.

        Raises:
            DataError: the data is not a trajectory.
        """
        with refusing(DataError, "this is not a trajectory", "take it from a run.json"):
            steps = tuple(Step.from_json(s) for s in data["steps"])
            start, metric = Step.from_json(data["start"]), str(data["metric"])
            return cls(start, steps, metric, bool(data["greater_is_better"]))

    def to_frame(self) -> pd.DataFrame:
        """Return a row per step: step, heads_dropped, sparsity, metric, dropped, score, seconds."""
        import pandas as pd

        return pd.DataFrame(
            {
                "step": range(len(self) + 1),
                "heads_dropped": [len(s.mask.dropped) for s in self],
                "sparsity": [s.mask.sparsity for s in self],
                self.metric: [s.metric for s in self],
                # what was gone before the first move is in the first row
                "dropped": [
                    " ".join(map(str, s.dropped or (s.mask.dropped if s is self.start else ())))
                    for s in self
                ],
                "score": [" ".join(f"{x:.17g}" for x in s.scores) for s in self],
                "seconds": [s.seconds for s in self],
            }
        )

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, counts: Sequence[int], *, greater_is_better: bool = True
    ) -> Trajectory:
        """Read what `to_frame` returned, for a model whose blocks had `counts` heads."""
        metric = frame.columns[3]
        mask, steps = HeadMask.full(counts), []
        for row in frame.fillna({"dropped": "", "score": ""}).to_dict("records"):
            dropped = tuple(Head.parse(h) for h in str(row["dropped"]).split())
            mask = mask.drop(*dropped)
            scores = tuple(float(s) for s in str(row["score"]).split())
            dropped = dropped if steps else ()
            steps.append(Step(mask, dropped, float(row[metric]), float(row["seconds"]), scores))
        return cls(steps[0], tuple(steps[1:]), str(metric), greater_is_better)
