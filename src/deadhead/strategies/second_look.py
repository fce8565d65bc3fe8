"""second_look: greedy, with new scores of the repaired model after half of the heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from deadhead.errors import BudgetError
from deadhead.repair.fitting import fit
from deadhead.repair.write import repaired
from deadhead.strategies.base import STRATEGIES, Move, StrategyContext, half_of, register_strategy
from deadhead.types import HeadMask, PruningPlan


@register_strategy("second_look")
def second_look(context: StrategyContext) -> Iterator[Move]:
    """Drop half of the heads greedily, repair the model, score it anew, and drop the rest greedily.

    The first measurements no longer hold once half of the heads are removed. The second pass is
    over the model without them, repaired by `least_squares`. Up to half, the moves are those of
    `greedy`. A resumed run measures again at the half that is in its `history`.

    Cost: two passes over the data, one if no more than half of the heads are dropped; and algebra.

    Raises:
        BudgetError: the criterion needs a pass for every mask anyway.
    """
    scorer = context.scorer
    if scorer is None or not scorer.can_rescore:
        raise BudgetError(
            "strategy 'second_look' needs a criterion that scores every mask from one pass; choose"
            " criterion reconstruction, or strategy greedy"
        )
    greedy, start = STRATEGIES["greedy"], context.start
    half, known = half_of(context.origin), start
    if len(start.dropped) < half:
        for move in greedy(replace(context, limit=min(context.limit, half))):
            yield move
            known = move.mask
    elif len(start.dropped) > half:  # the second pass was made before `start`
        known = _mask_at(half, context) or context.origin
        for move in greedy(replace(context, start=known, limit=half)):
            known = move.mask
    if context.limit <= half:
        return
    fits = fit(context.view, PruningPlan(known, repair="least_squares"), scorer.moments)
    with repaired(context.view, known, fits):
        rescored = scorer.rescore(known, {number: f.weight for number, f in fits.items()})
    begin = start if len(start.dropped) > len(known.dropped) else known
    yield from greedy(replace(context, start=begin, score=rescored, scorer=rescored))


def _mask_at(half: int, context: StrategyContext) -> HeadMask | None:
    """Return the last mask on the way to `start` that drops no more than half."""
    start = context.start
    before = [m for m in context.history if len(m.dropped) <= half and start & m == start]
    return before[-1] if before else None
