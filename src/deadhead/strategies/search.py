"""search: greedy, then swaps for as long as they lower the error of the whole mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from deadhead.errors import BudgetError
from deadhead.models.heads import HeadModel
from deadhead.similarity import GramFn
from deadhead.strategies.base import (
    Move,
    ScoreFn,
    ScoresWholeMasks,
    joint_from,
    register_strategy,
    strategy_named,
)
from deadhead.strategies.units import Rules, Unit, units
from deadhead.types import HeadMask, HeadScores

TRIED = 24  # swaps that are tried, the most promising first, before the search gives up
ROUNDS = 200
NO_ERROR = (
    "strategy 'search' needs a criterion that knows the error of a whole mask; choose criterion"
    " reconstruction or ablation, or strategy greedy"
)


@register_strategy("search")
def search(
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
    """Drop greedily, then swap a dropped head with a kept one while that lowers the whole error.

    The error of a mask is the criterion's own: of `reconstruction` what refitting cannot make up
    for, of `ablation` the calibration loss. The best swaps, by what the one saves and the other
    costs, are tried first. One move: the masks of different limits are not nested. Cost: the
    greedy scorings, then algebra; with `ablation` a scoring and part of a forward pass per dropped
    head for each swap that is made.
    Source: local search on masks, as the mask rearrangement of Kwon et al. 2022 (arXiv 2204.09656).

    Raises:
        BudgetError: the criterion has no error of a whole mask.
    """
    if not isinstance(score, ScoresWholeMasks):
        raise BudgetError(NO_ERROR)
    _errors(score, [origin])  # or is refused before any work
    greedy = strategy_named("greedy")
    rest = {"origin": origin, "per_step": per_step, "limit": limit, "rules": rules}
    moves = list(greedy(view, score, grams, start=origin, **rest))
    if not moves:
        return
    mask, dropped = moves[-1].mask, [u for move in moves for u in _units(view, move, rules)]
    (now,) = _errors(score, [mask])
    for _ in range(ROUNDS):
        found = None
        swaps = _swaps(view, score, mask, dropped, rules)[:TRIED]
        for begin in range(0, len(swaps), score.at_once):
            some = swaps[begin : begin + score.at_once]
            masks = [_with(mask, back).drop(*unit) for unit, back in some]
            errors = _errors(score, masks)
            best = int(np.argmin(errors))
            if errors[best] < now - abs(now) * 1e-9:
                found = (*some[best], masks[best], errors[best])
                break
        if found is None:
            break
        unit, back, mask, now = found
        dropped = [*(d for d in dropped if d != back), unit]
    heads = tuple(sorted(h for unit in dropped for h in unit))
    last = score(origin)
    yield Move(mask, heads, tuple(last[h] for h in heads))


def _units(view: HeadModel, move: Move, rules: Rules) -> list[Unit]:
    """Take apart what one move dropped: heads, or those that are bound together."""
    back = _with(move.mask, move.dropped)
    alike = HeadScores(tuple(np.zeros(n) for n in back.counts), "alike")
    free = replace(rules, keep_at_least=0, scope="global")
    gone = set(move.dropped)
    found = [unit for unit in units(view, alike, back, free) if set(unit) <= gone]
    return found if {h for unit in found for h in unit} == gone else [move.dropped]


def _errors(score: ScoresWholeMasks, masks: Sequence[HeadMask]) -> list[float]:
    found = score.errors(masks)
    if found is None:
        raise BudgetError(NO_ERROR)
    return found


def _swaps(
    view: HeadModel,
    score: ScoresWholeMasks,
    mask: HeadMask,
    dropped: list[Unit],
    rules: Rules,
) -> list[tuple[Unit, Unit]]:
    """List swaps (goes, comes back) of equal size that promise to save, best first."""
    costs, gains, joint = score(mask), score.gains(mask), joint_from(score, mask)
    single = gains is not None and all(len(back) == 1 for back in dropped)
    masks = [mask] if single else [mask, *(_with(mask, back) for back in dropped)]
    now, *without = _errors(score, masks)
    found = []
    adds_up = score.at_once == 1  # else blocks too make up for one another: no promise is exact
    for number, back in enumerate(dropped):
        saved = gains[back[0]] if gains is not None and len(back) == 1 else now - without[number]
        for unit in units(view, costs, _with(mask, back), rules):
            same_block = unit[0].block == back[0].block
            if set(unit) & set(back) or len(unit) != len(back):
                continue
            if rules.scope == "per_block" and not same_block:
                continue
            together = joint([unit]) if joint is not None and len(unit) > 1 else None
            cost = float(np.sum([costs[h] for h in unit])) if together is None else together[0]
            if cost < saved or same_block or not adds_up:  # in one block they make up for another
                found.append((cost - saved, unit, back))
    return [(unit, back) for _, unit, back in sorted(found, key=lambda f: f[0])]


def _with(mask: HeadMask, heads: Unit) -> HeadMask:
    """Return a mask that keeps `heads` as well."""
    rows = (
        tuple(kept or (b, i) in heads for i, kept in enumerate(row))
        for b, row in enumerate(mask.kept)
    )
    return HeadMask(tuple(rows))
