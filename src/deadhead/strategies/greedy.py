"""greedy: drop the lowest, score again, until nothing is left."""

from __future__ import annotations

from collections.abc import Iterator

from deadhead.models.heads import HeadModel
from deadhead.similarity import GramFn
from deadhead.strategies.base import Move, ScoreFn, joint_from, next_move, register_strategy
from deadhead.strategies.units import Rules, units
from deadhead.types import HeadMask


@register_strategy("greedy")
def greedy(
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
    """Score what is left, drop the lowest `per_step` heads, and again.

    Cost: one scoring per move.
    Source: the strategy of Greedy-Gnorm, arXiv 2602.04491 (`per_step` 1).
    """
    mask = start
    while len(mask.dropped) < limit:
        scores = score(mask)
        ordered = units(view, scores, mask, rules, joint_from(score, mask))
        move = next_move(mask, ordered, scores, per_step=per_step, limit=limit)
        if move is None:
            return
        yield move
        mask = move.mask
