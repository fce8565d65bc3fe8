"""one_shot: score once, drop from the lowest score up."""

from __future__ import annotations

from collections.abc import Iterator

from deadhead.heads import HeadModel
from deadhead.similarity import GramFn
from deadhead.strategies.base import Move, ScoreFn, next_move, register_strategy
from deadhead.strategies.units import Rules, units
from deadhead.types import HeadMask


@register_strategy("one_shot")
def one_shot(
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
    """Score the heads of `origin` once and drop them in that order, `per_step` a move.

    Cost: one scoring.
    """
    scores = score(origin)
    mask = start
    while move := next_move(
        mask, units(view, scores, mask, rules), scores, per_step=per_step, limit=limit
    ):
        yield move
        mask = move.mask
