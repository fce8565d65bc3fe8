"""The moves that a recipe makes on a model: how far they go, and what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deadhead.criteria.base import criterion_class
from deadhead.data.inputs import Batch
from deadhead.errors import BudgetError, ScoreError
from deadhead.models.heads import HeadModel
from deadhead.pruning.budgets import Budget, BudgetMeter, BudgetMeters
from deadhead.pruning.recipe import Recipe
from deadhead.scoring.combine import parts_of
from deadhead.similarity import GramFn, HeadGrams, check_units, head_grams
from deadhead.strategies import Move, ScoreFn, droppable, strategy_named, units
from deadhead.types import HeadMask, HeadScores, count_heads


@dataclass(frozen=True)
class Limits:
    """How far a recipe goes on a model.

    Attributes:
        plan: heads that are removed in the plan, at most.
        curve: heads that are removed at the end of the curve.
        meter: measures the recipe's budgets; None if it has none.
    """

    plan: int
    curve: int
    meter: BudgetMeters | None = None

    def reached(self, mask: HeadMask) -> bool:
        """Whether a mask is the end of the curve."""
        met = self.meter is not None and self.meter.met(mask)
        return met or len(mask.dropped) >= self.curve

    def check(self, mask: HeadMask) -> None:
        """Refuse a mask that the moves ended on without reaching the end.

        Raises:
            BudgetError: a budget is not met; says what is left.
            ScoreError: the other heads have no score.
        """
        if self.meter is not None:
            check_met(self.meter, mask)
        else:
            check_reached(mask, self.curve)


def limits_of(
    view: HeadModel, recipe: Recipe, batches: Callable[[], Iterable[Batch] | None]
) -> Limits:
    """Find how far a recipe goes; `batches` are looked at for a latency budget only.

    Raises:
        BudgetError: the rules do not let so many heads be removed, or a budget cannot be reached.
        HeadError: `unit="kv"` and key/value heads with unequal numbers of query heads.
    """
    if recipe.strategy == "clusters":
        check_units(view, recipe.clustering)
    origin, rules = view.mask, recipe.rules
    curve = droppable(view, origin, rules, recipe.heads if recipe.budget is None else 1.0)
    meter = _meter_of(view, recipe, batches)
    plan = curve if recipe.cut is None else droppable(view, origin, rules, recipe.cut)
    if plan > curve:
        raise BudgetError(
            f"cut={recipe.cut!r} is more than the heads={recipe.heads!r} of the curve; ask for less"
        )
    return Limits(plan, curve, meter)


def _meter_of(
    view: HeadModel, recipe: Recipe, batches: Callable[[], Iterable[Batch] | None]
) -> BudgetMeters | None:
    if recipe.budget is None:
        return None
    budgets, inputs = Budget.parse_all(recipe.budget), None
    if any(budget.of == "latency" for budget in budgets):
        longest = max(batches() or (), key=lambda b: b["input_ids"].shape[1], default=None)
        if longest is not None:
            inputs = {k: v[:1].to(view.device) for k, v in longest.items() if k != "labels"}
    meters = BudgetMeters(
        [BudgetMeter(view, each, gqa=recipe.gqa, inputs=inputs) for each in budgets]
    )
    counted = BudgetMeters([meter for meter in meters.each if meter.budget.of != "latency"])
    if counted.each:  # refused before any work
        alike = HeadScores(tuple(np.zeros(n) for n in view.mask.counts), "alike")
        everything = (h for unit in units(view, alike, view.mask, recipe.rules) for h in unit)
        check_met(counted, view.mask.drop(*everything))
    return meters


def check_met(meters: BudgetMeters, mask: HeadMask) -> None:
    """Refuse a budget that is not met when every removable head is removed.

    Raises:
        BudgetError: says what is left.
    """
    for meter in meters.each:
        if not meter.met(mask):
            raise BudgetError(
                f"budget {meter.budget} cannot be reached: removing every removable head still"
                f" leaves {meter.share(mask):.1%}; ask for more, or change the rules"
            )


def check_reached(mask: HeadMask, limit: int) -> None:
    """Refuse a mask that a strategy left short of its limit.

    Raises:
        ScoreError: the other heads have no score.
    """
    if len(mask.dropped) < limit:
        raise ScoreError(
            f"only {len(mask.dropped)} of {limit} heads can be removed: the others have no score;"
            " score every head, or ask for fewer"
        )


def grams_of(
    view: HeadModel,
    prompts: Iterable[Batch] | None,
    recipe: Recipe,
    on_batch: Callable[[], None] | None = None,
) -> GramFn:
    """Return what runs the prompts that the strategy `clusters` compares heads on."""

    def grams(scope: str) -> HeadGrams:
        clustering = recipe.clustering
        return head_grams(
            view,
            prompts or (),
            scope=scope,
            include_padding=clustering.include_padding,
            first_token=clustering.first_token,
            on_batch=on_batch,
        )

    return grams


def moves_within(
    view: HeadModel,
    score: ScoreFn,
    grams: GramFn,
    recipe: Recipe,
    limits: Limits,
    *,
    start: HeadMask,
) -> Iterator[Move]:
    """Return the moves of a recipe from `start` to its limits; a move ends on each limit.

    `search` makes a single move: under a budget, to where greedy moves would meet it.
    """
    ends: tuple[int, ...] = (limits.plan, limits.curve)
    meter = limits.meter
    if meter is not None and recipe.strategy == "search" and not meter.met(start):
        greedy = replace(recipe, strategy="greedy")
        for move in moves_to(view, score, grams, greedy, start=start, limits=ends):
            if meter.met(move.mask):
                ends = (len(move.mask.dropped),)
                break
    return moves_to(view, score, grams, recipe, start=start, limits=ends)


def moves_to(
    view: HeadModel,
    score: ScoreFn,
    grams: GramFn,
    recipe: Recipe,
    *,
    start: HeadMask,
    limits: Sequence[int],
) -> Iterator[Move]:
    """Chain the strategy's moves up to each limit in turn, so that a move ends on each."""
    mask = start
    for limit in sorted(set(limits)):
        if len(mask.dropped) >= limit:
            continue
        for move in strategy_named(recipe.strategy)(
            view,
            score,
            grams,
            origin=view.mask,
            start=mask,
            per_step=max(1, count_heads(recipe.per_step, start.n_heads)),
            limit=limit,
            rules=recipe.rules,
        ):
            yield move
            mask = move.mask


def count_moves(view: HeadModel, recipe: Recipe, limits: Limits) -> int:
    """Count the moves of a recipe; under a budget, the most that they can be."""
    ends = sorted({limits.plan, limits.curve})
    if recipe.strategy in ("search", "clusters"):
        return len(ends)
    alike = HeadScores(tuple(np.zeros(n) for n in view.mask.counts), "alike")
    sizes = map(len, units(view, alike, view.mask, recipe.rules))
    size = max(1, count_heads(recipe.per_step, view.mask.n_heads), *sizes)
    starts = [len(view.mask.dropped), *ends]
    return sum(math.ceil((end - start) / size) for start, end in zip(starts, ends, strict=False))


def count_scorings(view: HeadModel, recipe: Recipe) -> int:
    """Count the passes over the calibration data that choosing makes, as far as that is known."""
    if not recipe.needs_scores:
        return 0
    parts = [] if recipe.undecided else parts_of(recipe.criterion)
    lasting = all(getattr(criterion_class(p.split(":")[0]), "lasting", False) for p in parts)
    if lasting or recipe.strategy not in ("greedy", "search"):
        return 1
    heads = recipe.heads if recipe.budget is None else 1.0
    limit = droppable(view, view.mask, recipe.rules, heads)
    return count_moves(view, replace(recipe, strategy="greedy"), Limits(limit, limit))
