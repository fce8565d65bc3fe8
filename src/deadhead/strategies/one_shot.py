"""one_shot: score once, drop from the lowest score up."""

from __future__ import annotations

from collections.abc import Iterator

from deadhead.models.heads import HeadModel
from deadhead.similarity import GramFn
from deadhead.strategies.base import Move, ScoreFn, joint_from, next_move, register_strategy
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
    scores, joint = score(origin), joint_from(score, origin)
    mask = start
    while True:
        ordered = units(view, scores, mask, rules, joint)
        move = next_move(mask, ordered, scores, per_step=per_step, limit=limit)
        if move is None:
            return
        yield move
        mask = move.mask
