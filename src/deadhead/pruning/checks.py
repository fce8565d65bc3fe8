"""Is a recipe one that can be followed?"""

from __future__ import annotations

from deadhead.errors import BudgetError
from deadhead.options.fields import check_choices
from deadhead.pruning.budgets import Budget
from deadhead.pruning.recipe import AUTO, Recipe
from deadhead.pruning.stopping import StopRules
from deadhead.repair.base import REPAIRS
from deadhead.scoring.spec import CriterionSpec
from deadhead.strategies import STRATEGIES
from deadhead.types import COPYING, HeadMask


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose parts contradict each other, before any work.

    Raises:
        UnknownNameError: a name that no registry holds.
        BudgetError: an amount or a combination that makes no sense.
    """
    chosen = recipe.settled()
    strategy = None if chosen.undecided else STRATEGIES[chosen.strategy]
    if not chosen.undecided:
        CriterionSpec.parse(chosen.criterion)
    _ = REPAIRS[chosen.repair]
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
    if strategy is not None and strategy.minimizes_error and recipe.inverse:
        raise BudgetError(
            f"inverse means nothing to strategy {chosen.strategy!r}, which looks for the smallest"
            " error of the whole mask; leave it out, or choose strategy greedy"
        )
    if strategy is not None and strategy.makes_groups:
        _check_groups(recipe)
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
    made = None if strategy == AUTO else STRATEGIES[strategy]
    if made is not None and not made.nested and (made.makes_groups or budget.of == "latency"):
        nested = " or ".join(name for name, other in STRATEGIES.items() if other.nested)
        raise BudgetError(
            f"budget {budget} is met step by step, and strategy {strategy!r} makes one; choose"
            f" {nested}, or say how many --heads"
        )
    if recipe.cut is not None:
        raise BudgetError(
            f"cut={recipe.cut!r} and budget {budget} both say where to end; leave one out"
        )


def _check_groups(recipe: Recipe) -> None:
    plain = Recipe()
    for name in ("cut", "inverse", "scope", "keep_at_least"):
        if getattr(recipe, name) != getattr(plain, name):
            raise BudgetError(
                f"{name}={getattr(recipe, name)!r} means nothing to strategy"
                f" {recipe.strategy!r}, which groups all heads at once; leave it out"
            )
