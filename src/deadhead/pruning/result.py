"""What prune returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from deadhead.display.brief import Brief
from deadhead.display.head_map import head_map_html
from deadhead.moments import Moments
from deadhead.pruning.auto import AutoChoice
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.trajectory import Trajectory
from deadhead.repair import Fits
from deadhead.types import HeadScores, PruningPlan


@dataclass(frozen=True, repr=False)
class Pruning(Brief):
    """The outcome of `prune`.

    Attributes:
        trajectory: the metric after every move, on `evaluated_on`.
        scores: scores of the model as it was given; None if it was not scored (`clusters`).
        plan: what to cut: the last step, or under `max_drop` the last that is good enough.
        fits: the plan's repair: what `repair.apply_repaired_` puts in.
        moments: what fits are made from; None without a repair.
        evaluated_on: `test`, or `selection` if a stopping rule looked at the metric.
        recipe: as it was settled, and decided on.
        choice: how `auto` chose; None if the method was named.
        notes: what the user should know of the calibration data, a line each.
    """

    trajectory: Trajectory
    scores: HeadScores | None
    plan: PruningPlan
    fits: Fits = field(default_factory=dict)
    moments: Moments | None = None
    evaluated_on: str = "test"
    recipe: Recipe = field(default_factory=Recipe)
    choice: AutoChoice | None = None
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        scores = None if self.scores is None else [row.tolist() for row in self.scores.values]
        return head_map_html(self.plan.mask.kept, scores, caption=repr(self.trajectory))
