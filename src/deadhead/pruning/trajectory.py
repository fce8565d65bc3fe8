"""A run seen as a curve: its steps and metric, when it stops, and what it says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deadhead.display import NOTHING, Brief, number
from deadhead.display.html import head_map_html
from deadhead.errors import BudgetError, DataError
from deadhead.files import json_number, refusing
from deadhead.types import Head, HeadMask, HeadScores

if TYPE_CHECKING:
    import pandas as pd

    from deadhead.pruning.auto import AutoChoice


@dataclass(frozen=True)
class Metric:
    """What a model is judged by: a name, and whether greater is better (not so perplexity)."""

    name: str
    greater_is_better: bool = True

    @property
    def better(self) -> str:
        """The direction in words: `higher is better` or `lower is better`."""
        return f"{'higher' if self.greater_is_better else 'lower'} is better"

    def __str__(self) -> str:
        return f"{self.name} ({self.better})"

    def worse_by(self, before: float, after: float) -> float:
        """Return how much worse `after` is, in the metric's unit; negative if it is better."""
        return before - after if self.greater_is_better else after - before

    def change(self, before: float | None, after: float | None, *, than: str = "dense") -> str:
        """Say a relative change; a dash if it is not known.

        >>> Metric("perplexity", greater_is_better=False).change(20.0, 20.8)
        '4.0% worse than dense'
        """
        if before is None or after is None or not before > 0 or math.isnan(after):
            return NOTHING
        worse = self.worse_by(before, after) / before
        if round(abs(worse), 3) == 0:
            return f"the same as {than}"
        return f"{abs(worse):.1%} {'worse' if worse > 0 else 'better'} than {than}"

    def keeps(self, values: np.ndarray, dense: float, fraction: float) -> np.ndarray:
        """Return where values are at least fraction * dense (lower: at most dense / fraction)."""
        return values >= fraction * dense if self.greater_is_better else values <= dense / fraction


@dataclass(frozen=True, repr=False)
class Step(Brief):
    """One move: the mask after it, what it dropped, and what the model then scored.

    Attributes:
        mask: heads kept after the move.
        dropped: heads that this move dropped.
        metric: value on the set that the run was judged on; NaN where the step was not evaluated.
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
        """Read what `to_json` returned; refuse other data with a `DataError`."""
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
        """Return the metric at a fraction of heads dropped, linear between steps.

        NaN beyond the last step.
        """
        x, y = self.curve()
        return float(np.interp(sparsity, x, y, left=np.nan, right=np.nan))

    def largest_keeping(self, fraction: float) -> float:
        """Return the largest sparsity that keeps `fraction` of the dense quality.

        The curve need not be monotone: this is the last such step, as the published tables count.
        """
        x, y = self.curve()
        enough = self.judged_by.keeps(y, self.dense, fraction)
        return float(x[enough].max()) if enough.any() else 0.0

    def auc(self) -> float:
        """Return the area under the curve (trapezoids), divided by the sparsity it spans."""
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
        """Read what `to_json` returned; refuse other data with a `DataError`."""
        with refusing(DataError, "this is not a trajectory", "take it from a run.json"):
            steps = tuple(Step.from_json(s) for s in data["steps"])
            start, metric = Step.from_json(data["start"]), str(data["metric"])
            return cls(start, steps, metric, bool(data["greater_is_better"]))

    def to_frame(self) -> pd.DataFrame:
        """Return a row per step: step, heads_dropped, sparsity, metric, dropped, score, seconds."""
        import pandas as pd

        # what was gone before the first move is in the first row
        dropped = [self.start.mask.dropped, *(step.dropped for step in self.steps)]
        return pd.DataFrame(
            {
                "step": range(len(self) + 1),
                "heads_dropped": [len(s.mask.dropped) for s in self],
                "sparsity": [s.mask.sparsity for s in self],
                self.metric: [s.metric for s in self],
                "dropped": [" ".join(map(str, heads)) for heads in dropped],
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


@dataclass(frozen=True)
class StopRules:
    """Stopping rules on a stream of steps.

    Attributes:
        heads: stop once this many heads are dropped.
        max_drop: stop when the metric is worse than the dense one by more than this, in the
            metric's own unit (`.01` = one point of accuracy).
        patience: how many evaluated steps in a row may be worse than that before it stops; a later
            step may be good again.
    """

    heads: int
    max_drop: float | None = None
    patience: int = 1

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise BudgetError(f"patience is {self.patience}; give 1 or more steps")
        if self.max_drop is not None and not self.max_drop >= 0:  # NaN is refused too
            raise BudgetError(f"max_drop is {self.max_drop}; give 0 or more, e.g. .01")

    def acceptable(self, step: Step, dense: float, *, greater_is_better: bool) -> bool:
        """Whether a step's metric is within `max_drop` of the dense one."""
        if self.max_drop is None:
            return True
        worse = Metric("", greater_is_better).worse_by(dense, step.metric)
        return worse <= self.max_drop + 1e-12  # NaN is not

    def met(self, steps: Sequence[Step], dense: float, *, greater_is_better: bool) -> bool:
        """Whether to stop after these steps (dense model not included)."""
        if steps and len(steps[-1].mask.dropped) >= self.heads:
            return True
        if self.max_drop is None:
            return False
        evaluated = [s for s in steps if not np.isnan(s.metric)][-self.patience :]
        return len(evaluated) == self.patience and not any(
            self.acceptable(s, dense, greater_is_better=greater_is_better) for s in evaluated
        )


@dataclass
class Progress:
    """Callbacks of a run; all optional."""

    on_step: Callable[[Step], None] = lambda step: None
    on_choice: Callable[[AutoChoice], None] = lambda choice: None
    on_scores: Callable[[HeadScores], None] = lambda scores: None
    on_work: Callable[[str], None] = lambda what: None
    on_train: Callable[[int, int], None] = lambda step, planned: None


@dataclass(frozen=True)
class Completed:
    """The completed part of an interrupted run: its first scores, its steps, what auto chose.

    The choice is not made again: on another machine, a near tie could go the other way.
    """

    scores: HeadScores | None = None
    steps: tuple[Step, ...] = ()
    choice: AutoChoice | None = None


@dataclass(frozen=True)
class Forecast:
    """What a run is going to do.

    Attributes:
        heads, n_heads: how many heads it removes at most, and how many the model has.
        moves: in how many moves; under a budget or a stopping rule, at most.
        judgments: how often a model is judged, the dense one included; likewise at most.
        examples: how many examples it is judged on.
        scorings: passes over the calibration data, forward and backward.
        calibration: how many calibration examples there are.
        on: the set that judges.
    """

    heads: int
    n_heads: int
    moves: int
    judgments: int
    examples: int
    scorings: int
    calibration: int
    on: str = "test"

    def seconds(self, judgment: float) -> float:
        """Estimate the time of the run from that of one judgment; a backward pass counts as two."""
        pass_ = 3 * judgment * self.calibration / max(1, self.examples)
        return judgment * self.judgments + pass_ * self.scorings

    def describe(self, judgment: float | None = None) -> str:
        """Say in one line what will be done, and about how long it takes."""
        said = (
            f"remove up to {self.heads} of {self.n_heads} heads in {self.moves} steps, and judge"
            f" {self.judgments} models on {self.examples:,} {self.on} examples"
        )
        if judgment is None:
            return said
        seconds = self.seconds(judgment)
        return f"{said}: about {f'{seconds / 60:.0f} min' if seconds >= 90 else f'{seconds:.0f} s'}"
