"""The moves that a recipe makes on a model: how far they go, and what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deadhead.data.inputs import Batch
from deadhead.errors import BudgetError, ScoreError
from deadhead.models.heads import HeadModel
from deadhead.options.values import count_heads
from deadhead.pruning.budgets import Budget, BudgetMeter, BudgetMeters
from deadhead.pruning.recipe import AUTO, Recipe
from deadhead.scoring.spec import CriterionSpec
from deadhead.strategies import STRATEGIES, Move, ScoreFn, StrategyContext, droppable, units
from deadhead.types import HeadMask, HeadScores

if TYPE_CHECKING:
    from deadhead.scoring import Scorer
    from deadhead.similarity import GramFn, HeadGrams


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
    if recipe.makes_groups:
        from deadhead.similarity.clustering import check_units  # other strategies need none of it

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


def prompt_grams(
    view: HeadModel,
    prompts: Iterable[Batch] | None,
    recipe: Recipe,
    on_batch: Callable[[], None] | None = None,
) -> GramFn:
    """Return what runs the prompts that the strategy `clusters` compares heads on."""

    def grams(scope: str) -> HeadGrams:
        from deadhead.similarity.gram import head_grams

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


def context_of(
    view: HeadModel,
    recipe: Recipe,
    score: ScoreFn,
    *,
    scorer: Scorer | None = None,
    grams: GramFn | None = None,
    start: HeadMask | None = None,
    limit: int = 0,
    history: Sequence[HeadMask] = (),
) -> StrategyContext:
    """Return what a recipe's strategy works with; see `StrategyContext`."""
    origin = view.mask
    return StrategyContext(
        view=view,
        score=score,
        rules=recipe.rules,
        origin=origin,
        start=origin if start is None else start,
        limit=limit,
        per_step=max(1, count_heads(recipe.per_step, origin.n_heads)),
        scorer=scorer,
        grams=grams,
        history=history,
    )


def moves_within(context: StrategyContext, strategy: str, limits: Limits) -> Iterator[Move]:
    """Return a strategy's moves to the limits; a move ends on each limit.

    A strategy that is not nested makes a single move: under a budget, to where greedy moves would
    meet it.
    """
    ends: tuple[int, ...] = (limits.plan, limits.curve)
    meter = limits.meter
    if meter is not None and not STRATEGIES[strategy].nested and not meter.met(context.start):
        for move in moves_to(context, "greedy", ends):
            if meter.met(move.mask):
                ends = (len(move.mask.dropped),)
                break
    return moves_to(context, strategy, ends)


def moves_to(context: StrategyContext, strategy: str, limits: Sequence[int]) -> Iterator[Move]:
    """Chain a strategy's moves up to each limit in turn, so that a move ends on each."""
    mask = context.start
    for limit in sorted(set(limits)):
        if len(mask.dropped) >= limit:
            continue
        for move in STRATEGIES[strategy](replace(context, start=mask, limit=limit)):
            yield move
            mask = move.mask


def count_moves(view: HeadModel, recipe: Recipe, limits: Limits) -> int:
    """Count the moves of a recipe; under a budget, the most that they can be."""
    ends = sorted({limits.plan, limits.curve})
    if recipe.strategy != AUTO and not STRATEGIES[recipe.strategy].nested:
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
    if recipe.undecided or not STRATEGIES[recipe.strategy].rescores:
        return 1
    if CriterionSpec.parse(recipe.criterion).scores_masks:
        return 1
    heads = recipe.heads if recipe.budget is None else 1.0
    limit = droppable(view, view.mask, recipe.rules, heads)
    return count_moves(view, replace(recipe, strategy="greedy"), Limits(limit, limit))
