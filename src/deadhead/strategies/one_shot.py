"""one_shot: score once, drop heads from the lowest score up."""

from __future__ import annotations

from collections.abc import Iterator

from deadhead.strategies.base import Move, StrategyContext, register_strategy


@register_strategy("one_shot")
def one_shot(context: StrategyContext) -> Iterator[Move]:
    """Score all heads once and drop them from the lowest score up.

    Cost: one scoring.
    """
    origin, mask = context.origin, context.start
    scores = context.score(origin)
    while move := context.move(mask, context.units(scores, mask, origin), scores):
        yield move
        mask = move.mask
