"""greedy: drop the heads with the lowest scores, score again, repeat."""

from __future__ import annotations

from collections.abc import Iterator

from deadhead.strategies.base import Move, StrategyContext, register_strategy


@register_strategy("greedy", rescores=True)
def greedy(context: StrategyContext) -> Iterator[Move]:
    """Drop the `per_step` heads with the lowest scores, score the rest again, and repeat.

    Cost: one scoring per move.
    Source: the strategy of Greedy-Gnorm, arXiv 2602.04491 (`per_step` 1).
    """
    mask = context.start
    while len(mask.dropped) < context.limit:
        scores = context.score(mask)
        move = context.move(mask, context.units(scores, mask, mask), scores)
        if move is None:
            return
        yield move
        mask = move.mask
