"""Is a recipe one that can be followed?"""

from __future__ import annotations

from deadhead.errors import BudgetError, unknown_name
from deadhead.options.fields import check_choices
from deadhead.pruning.budgets import Budget
from deadhead.pruning.recipe import NESTED, Recipe
from deadhead.pruning.stopping import StopRules
from deadhead.repair import repair_names
from deadhead.scoring.combine import parts_of
from deadhead.strategies import strategy_named
from deadhead.types import COPYING, HeadMask


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose parts contradict each other, before any work.

    Raises:
        UnknownNameError: a name that no registry holds.
        BudgetError: an amount or a combination that makes no sense.
    """
    chosen = recipe.settled()
    if not chosen.undecided:
        strategy_named(chosen.strategy)
        parts_of(chosen.criterion)
    if chosen.repair not in repair_names():
        raise unknown_name("repair", chosen.repair, repair_names())
    check_choices(recipe, but=("strategy", "repair", "gqa"))  # open registries, checked otherwise
    _ = recipe.rules  # checks itself
    StopRules(0, recipe.max_drop, recipe.patience)
    every = recipe.evaluate_every
    if every is not None and every < 1:
        raise BudgetError(f"evaluate_every is {every}; give 1 or more moves")
    if recipe.every_step and every not in (None, 1):
        raise BudgetError(
            f"every_step and evaluate_every={every} both say which steps are judged; leave one out"
        )
    recipe.plan(HeadMask(()))  # checks itself
    if recipe.budget is not None:
        for budget in Budget.parse_all(recipe.budget):
            _check_budget(recipe, budget, chosen.strategy)
    if chosen.strategy == "search" and recipe.inverse:
        raise BudgetError(
            "inverse means nothing to strategy 'search', which looks for the smallest error of"
            " the whole mask; leave it out, or choose strategy greedy"
        )
    if chosen.strategy == "clusters":
        _check_clusters(recipe)
    elif recipe.action in COPYING:
        raise BudgetError(
            f"action {recipe.action!r} needs to know which head a copy comes from, and strategy"
            f" {chosen.strategy!r} does not say; choose strategy clusters, or action remove, mask"
        )
    if recipe.action == "duplicate" and chosen.repair != "none":
        raise BudgetError(
            "duplicated heads cannot be repaired: each keeps its own output slice; choose the"
            " action fold (the same logits with fewer heads), mask or remove, or repair none"
        )


def _check_budget(recipe: Recipe, budget: Budget, strategy: str) -> None:
    if strategy not in NESTED and (strategy != "search" or budget.of == "latency"):
        raise BudgetError(
            f"budget {budget} is met step by step, and strategy {strategy!r} makes one; choose"
            f" {' or '.join(NESTED)}, or say how many --heads"
        )
    if recipe.cut is not None:
        raise BudgetError(
            f"cut={recipe.cut!r} and budget {budget} both say where to end; leave one out"
        )


def _check_clusters(recipe: Recipe) -> None:
    plain = Recipe()
    for name in ("cut", "inverse", "scope", "keep_at_least"):
        if getattr(recipe, name) != getattr(plain, name):
            raise BudgetError(
                f"{name}={getattr(recipe, name)!r} means nothing to strategy 'clusters', which"
                " groups all heads at once; leave it out"
            )
