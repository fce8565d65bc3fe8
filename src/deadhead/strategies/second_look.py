"""second_look: greedy, and after half of the heads by what the repaired model then looks like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from deadhead.errors import BudgetError
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments
from deadhead.repair import fit, repaired
from deadhead.similarity import GramFn
from deadhead.strategies.base import Move, ScoreFn, register_strategy, strategy_named
from deadhead.strategies.units import Rules
from deadhead.types import HeadMask, HeadScores, PruningPlan


@runtime_checkable
class LooksAgain(Protocol):
    """A `ScoreFn` that can look at a changed model, if its criterion needs but one look."""

    @property
    def looks_again(self) -> bool:
        """Whether it can."""
        ...

    @property
    def moments(self) -> Moments:
        """Moments of the dense model."""
        ...

    @property
    def passed(self) -> Sequence[HeadMask]:
        """The masks that this run has come by, in order."""
        ...

    def __call__(self, mask: HeadMask) -> HeadScores:
        """Score the heads that a mask leaves."""
        ...

    def again(self, mask: HeadMask, weights: Mapping[int, Tensor]) -> ScoreFn:
        """Return what scores the model as it is at this moment, masked, with other projections."""
        ...


@register_strategy("second_look")
def second_look(
    view: HeadModel,
    score: ScoreFn,
    grams: GramFn,
    *,
    origin: HeadMask,
    start: HeadMask,
    per_step: int,
    limit: int,
    rules: Rules,
) -> Iterator[Move]:
    """Drop greedily by one look at the model, and the second half of its heads by another.

    What the first look measured is no longer true when half of the heads are gone. The second is at
    the model without them, repaired by `least_squares`; the first half of a run is that of
    `greedy`. A resumed run looks again at the half that it had `passed`.

    Cost: two passes over the data, one if no more than half of the heads go; and algebra.

    Raises:
        BudgetError: the criterion needs a pass for every mask anyway.
    """
    if not isinstance(score, LooksAgain) or not score.looks_again:
        raise BudgetError(
            "strategy 'second_look' needs a criterion that knows every mask from one look; choose"
            " criterion reconstruction, or strategy greedy"
        )
    greedy = strategy_named("greedy")
    rest = {"origin": origin, "per_step": per_step, "rules": rules}
    half, known = half_of(origin), start
    if len(start.dropped) < half:
        for move in greedy(view, score, grams, start=start, limit=min(limit, half), **rest):
            yield move
            known = move.mask
    elif len(start.dropped) > half:  # it was looked at before `start`
        known = _passed(score, half, start) or origin
        for move in greedy(view, score, grams, start=known, limit=half, **rest):
            known = move.mask
    if limit <= half:
        return
    fits = fit(view, PruningPlan(known), score.moments, "least_squares")
    with repaired(view, known, fits):
        again = score.again(known, {number: found.weight for number, found in fits.items()})
    begin = start if len(start.dropped) > len(known.dropped) else known
    yield from greedy(view, again, grams, start=begin, limit=limit, **rest)


def _passed(score: LooksAgain, half: int, start: HeadMask) -> HeadMask | None:
    """Return the last mask on the way to `start` that drops no more than half."""
    before = [mask for mask in score.passed if len(mask.dropped) <= half and start & mask == start]
    return before[-1] if before else None


def half_of(origin: HeadMask) -> int:
    """Return how many heads are dropped when the model is looked at again."""
    return len(origin.dropped) + origin.n_kept // 2
