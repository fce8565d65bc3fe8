"""one_shot, greedy, and what begins greedily: second_look and search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from deadhead.errors import BudgetError
from deadhead.repair.fits import fit
from deadhead.repair.write import repaired
from deadhead.strategies.base import STRATEGIES, Move, StrategyContext, half_of, register_strategy
from deadhead.strategies.rules import Unit, removable, units
from deadhead.types import HeadMask, PruningPlan


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


TRIED = 24  # swaps that are tried, the most promising first, before the search gives up
ROUNDS = 200


@register_strategy("search", nested=False, rescores=True, minimizes_error=True)
def search(context: StrategyContext) -> Iterator[Move]:
    """Drop heads greedily, then swap dropped and kept heads while that lowers the whole error.

    The error of a mask is the criterion's own: of `reconstruction` what refitting cannot make up
    for, of `ablation` the calibration loss. The swaps that promise most, by what the one head saves
    and the other costs, are tried first. It makes one move: masks of different limits are not
    nested.

    Cost: the greedy scorings, then algebra; with `ablation` a scoring and part of a forward pass
    per dropped head for each swap that is made.
    Source: local search on masks, as the mask rearrangement of Kwon et al. 2022 (arXiv 2204.09656).

    Raises:
        BudgetError: the criterion has no error of a whole mask.
    """
    _errors(context, [context.origin])  # refuses before any work
    moves = list(STRATEGIES["greedy"](replace(context, start=context.origin)))
    if not moves:
        return
    mask = moves[-1].mask
    dropped = [unit for move in moves for unit in _units_of(move, context)]
    (error,) = _errors(context, [mask])
    for _ in range(ROUNDS):
        swap = _better_swap(context, mask, dropped, error)
        if swap is None:
            break
        unit, back, mask, error = swap
        dropped = [*(d for d in dropped if d != back), unit]
    heads = tuple(sorted(h for unit in dropped for h in unit))
    scores = context.score(context.origin)
    yield Move(mask, heads, tuple(scores[h] for h in heads))


def _better_swap(
    context: StrategyContext, mask: HeadMask, dropped: list[Unit], error: float
) -> tuple[Unit, Unit, HeadMask, float] | None:
    """Return the first swap found to lower the error: (dropped, taken back, mask, error)."""
    swaps = _swaps(context, mask, dropped)[:TRIED]
    together = _masks_per_pass(context)
    for begin in range(0, len(swaps), together):
        some = swaps[begin : begin + together]
        masks = [_with(mask, back).drop(*unit) for unit, back in some]
        errors = _errors(context, masks)
        best = int(np.argmin(errors))
        if errors[best] < error - abs(error) * 1e-9:
            return (*some[best], masks[best], errors[best])
    return None


def _units_of(move: Move, context: StrategyContext) -> list[Unit]:
    """Divide what one move dropped into units."""
    before = _with(move.mask, move.dropped)
    free = replace(context.rules, keep_at_least=0, scope="global")
    dropped = set(move.dropped)
    inside = [u for u in removable(context.view, before, free) if set(u) <= dropped]
    return inside if {h for unit in inside for h in unit} == dropped else [move.dropped]


def _errors(context: StrategyContext, masks: Sequence[HeadMask]) -> list[float]:
    errors = None if context.scorer is None else context.scorer.errors(masks)
    if errors is None:
        raise BudgetError(
            "strategy 'search' needs a criterion that knows the error of a whole mask; choose"
            " criterion reconstruction or ablation, or strategy greedy"
        )
    return errors


def _masks_per_pass(context: StrategyContext) -> int:
    return 1 if context.scorer is None else context.scorer.masks_per_pass


def _swaps(
    context: StrategyContext, mask: HeadMask, dropped: list[Unit]
) -> list[tuple[Unit, Unit]]:
    """List swaps (to drop, to take back) of equal size that promise to save, best first."""
    scorer = context.scorer
    costs, gains = context.score(mask), None if scorer is None else scorer.gains(mask)
    single = gains is not None and all(len(back) == 1 for back in dropped)
    masks = [mask] if single else [mask, *(_with(mask, back) for back in dropped)]
    now, *without = _errors(context, masks)
    # with trials, heads of other blocks make up for one another too: no promise is exact
    exact = _masks_per_pass(context) == 1
    swaps = []
    for number, back in enumerate(dropped):
        saved = gains[back[0]] if gains is not None and len(back) == 1 else now - without[number]
        for unit in units(context.view, costs, _with(mask, back), context.rules):
            same_block = unit[0].block == back[0].block
            if set(unit) & set(back) or len(unit) != len(back):
                continue
            if context.rules.scope == "per_block" and not same_block:
                continue
            together = None
            if scorer is not None and len(unit) > 1:
                together = scorer.group_errors(mask, [unit])
            cost = float(np.sum([costs[h] for h in unit])) if together is None else together[0]
            if cost < saved or same_block or not exact:  # heads of one block replace each other
                swaps.append((cost - saved, unit, back))
    return [(unit, back) for _, unit, back in sorted(swaps, key=lambda swap: swap[0])]


def _with(mask: HeadMask, heads: Unit) -> HeadMask:
    """Return a mask that keeps `heads` as well."""
    rows = (
        tuple(kept or (b, i) in heads for i, kept in enumerate(row))
        for b, row in enumerate(mask.kept)
    )
    return HeadMask(tuple(rows))
