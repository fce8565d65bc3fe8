"""second_look: greedy, and after half of the heads by what the repaired model then looks like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from deadhead.errors import BudgetError
from deadhead.heads import HeadModel
from deadhead.moments import Moments
from deadhead.repair import fit, repaired
from deadhead.similarity import GramFn
from deadhead.strategies.base import Move, ScoreFn, register_strategy, strategy_named
from deadhead.strategies.units import Rules
from deadhead.types import HeadMask, PruningPlan


@runtime_checkable
class LooksAgain(Protocol):
    """A `ScoreFn` that can look at a changed model, if its criterion needs but one look."""

    @property
    def moments(self) -> Moments:
        """Moments of the dense model."""
        ...

    def again(self, weights: Mapping[int, Tensor]) -> ScoreFn | None:
        """Return what scores the model as it is at this moment, with other output projections."""
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
    `greedy`. A resumed run looks again at the same half.

    Cost: two passes over the data, one if no more than half of the heads go; and algebra.

    Raises:
        BudgetError: the criterion needs a pass for every mask anyway.
    """
    greedy = strategy_named("greedy")
    rest = {"origin": origin, "per_step": per_step, "rules": rules}
    half, known = half_of(origin), origin
    if limit <= half:
        yield from greedy(view, score, grams, start=start, limit=limit, **rest)
        return
    for move in greedy(view, score, grams, start=origin, limit=half, **rest):
        known = move.mask
        if len(known.dropped) > len(start.dropped):
            yield move
    again = _look_again(view, score, known)
    begin = start if len(start.dropped) > len(known.dropped) else known
    yield from greedy(view, again, grams, start=begin, limit=limit, **rest)


def half_of(origin: HeadMask) -> int:
    """Return how many heads are dropped when the model is looked at again."""
    return len(origin.dropped) + origin.n_kept // 2


def _look_again(view: HeadModel, score: ScoreFn, mask: HeadMask) -> ScoreFn:
    again = None
    if isinstance(score, LooksAgain):
        fits = fit(view, PruningPlan(mask), score.moments, "least_squares")
        with repaired(view, mask, fits):
            again = score.again({number: found.weight for number, found in fits.items()})
    if again is None:
        raise BudgetError(
            "strategy 'second_look' needs a criterion that knows every mask from one look; choose"
            " criterion reconstruction, or strategy greedy"
        )
    return again
