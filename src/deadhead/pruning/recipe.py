"""What a pruning run does, as plain values, and whether it can be done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar

from deadhead.errors import ArgumentError, BudgetError, unknown_name
from deadhead.options.fields import check_choices, option, part, settings
from deadhead.options.settings import (
    CLUSTERS,
    LIMITS,
    METHOD,
    Clustering,
    Distillation,
    seed_option,
    strict_option,
)
from deadhead.options.values import (
    DEFAULT_REPAIR,
    Action,
    Amount,
    Gqa,
    Loss,
    Repair,
    RepairAt,
    Scope,
    Slope,
    Strategy,
    parse_amount,
)
from deadhead.types import COPYING, Head, HeadMask, PruningPlan

if TYPE_CHECKING:
    from deadhead.scoring.spec import CriterionSpec
    from deadhead.strategies import Rules

AUTO = "auto"


@settings
class Recipe:
    """What `prune` does, as plain values.

    If neither criterion nor strategy is set, `auto` picks the ranking: see `settled`.
    """

    heads: Amount = option(
        default=0.5,
        help="How many heads to remove: 36, 50%, or 0.5. Heads that the model lost earlier count.",
        parse=parse_amount,
        shown="50%",
        group="heads",
    )
    repair: Repair = option(
        default="auto",
        help="How the remaining heads make up for the removed ones. least_squares refits the output"
        " projections on the calibration texts and, with three tenths of the weight, on text that"
        " the model writes itself; least_squares:own=0:bias=true fits the calibration texts alone,"
        " and biases too. least_squares_sequential refits each block on the repaired blocks before"
        " it (slow); bias adjusts the output bias; distill is least_squares, then training against"
        " the dense model. auto: least_squares if the criterion is auto too, else none.",
    )
    criterion: str = option(
        default="auto",
        flags=("--criterion", "-c"),
        help="How to score heads: 'deadhead list' names all; auto compares several rankings on"
        " held-out calibration texts. Options follow colons: attention_entropy:normalized=true;"
        " names joined by + are combined by rank.",
        panel=METHOD,
        group="scores",
    )
    strategy: Strategy = option(
        default="auto",
        flags=("--strategy", "-s"),
        help="How to choose heads by their scores. greedy scores again after every move;"
        " second_look is greedy, scored again at half of the heads; search is greedy, then swaps;"
        " clusters keeps one head of each group with similar attention maps.",
        panel=METHOD,
    )
    loss: Loss | None = option(
        default=None,
        help="Loss of gradient criteria: task needs labels, kl and logit_norm do not. By default"
        " the criterion's own.",
        panel=METHOD,
        group="scores",
    )
    action: Action = option(
        default="remove",
        help="What happens to the chosen heads. Of clusters also duplicate (each takes the weights"
        " of the head that represents it) and fold (the same logits with fewer heads).",
        panel=METHOD,
    )
    gqa: Gqa = option(
        default="whole_groups",
        help="Shared key/value heads: whole_groups shrinks the cache; ungroup is exact for any mask"
        " and copies keys and values only where groups become uneven.",
        panel=METHOD,
    )
    scope: Scope = option(
        default="global",
        help="Rank all heads together, or remove the same number in every block.",
        panel=METHOD,
    )
    inverse: bool = option(
        default=False, help="Remove the heads with the highest scores first.", panel=METHOD
    )
    repair_at: RepairAt = option(
        default="step",
        help="step repairs every model of the curve; end repairs the last one alone.",
        panel=METHOD,
    )
    slope: Slope = option(
        default="target",
        help="ALiBi slope of a copied head: its own (target, as published) or that of the head it"
        " copies (source, which folding needs).",
        panel=CLUSTERS,
        group="groupings",
    )
    budget: str | None = option(
        default=None,
        help="What may remain, instead of --heads: parameters=80%, kv_bytes=50%, flops=70%, or"
        " latency=90% (measured on cut models). Give several to meet all.",
        panel=LIMITS,
        parse=",".join,
        raw=list[str],
    )
    cut: Amount | None = option(
        default=None,
        help="How many heads the checkpoint loses, if fewer than the curve covers: --heads 100%"
        " --cut 25%.",
        panel=LIMITS,
        parse=parse_amount,
    )
    per_step: Amount = option(
        default=1,
        help="Heads that one move removes: 1, 5%.",
        panel=LIMITS,
        parse=parse_amount,
        shown="1",
        group="steps",
    )
    keep_at_least: int = option(default=0, help="Heads that every block keeps.", panel=LIMITS)
    sites: str = option(
        default="",
        help="Stacks of attention that lose heads, where a model has several: decoder.cross, or"
        " encoder,decoder; shares then count the heads of these. 'deadhead check' names them.",
        panel=LIMITS,
    )
    max_drop: float | None = option(
        default=None,
        help="Stop when the metric on the selection set is worse than the dense model's by more"
        " than this, in its own unit: .01 is one point of accuracy.",
        panel=LIMITS,
    )
    patience: int = option(
        default=1,
        help="Stop after this many evaluated steps in a row that are too bad.",
        panel=LIMITS,
    )
    every_step: bool = option(
        default=False,
        help="Judge the model after every step. By default, at about ten points of the curve and"
        " its end; with --max-drop, after every step.",
        panel=LIMITS,
    )
    evaluate_every: int | None = option(
        default=None, help="Judge the model after every so many steps, and the last.", panel=LIMITS
    )
    strict: bool = strict_option()
    seed: int = seed_option()
    clustering: Clustering = part(factory=Clustering)
    distillation: Distillation = part(factory=Distillation)

    def __post_init__(self) -> None:
        for name in ("heads", "cut", "per_step"):
            object.__setattr__(self, name, parse_amount(getattr(self, name)))

        check_recipe(self)

    def settled(self) -> Recipe:
        """Return the recipe with `auto` replaced by what it stands for, as far as that is known.

        If neither criterion nor strategy is set, the ranking is chosen when the model has been run
        (see `undecided`), with the repair `least_squares`. If only a strategy, a budget or
        `inverse` is set, the criterion is `reconstruction`, greedy by itself, with the same repair.
        A named criterion, or `clusters`, is used without repair unless `repair` is set.
        """
        named = self.criterion != AUTO or self.makes_groups
        values = {"repair": "none" if named else DEFAULT_REPAIR}
        if not self.undecided:
            values |= {"strategy": "greedy", "criterion": "reconstruction"}
        chosen = {k: v for k, v in values.items() if getattr(self, k) == AUTO}
        return replace(self, **chosen) if chosen else self

    @property
    def undecided(self) -> bool:
        """Whether the method depends on the model: nothing is named; see `auto.AutoSelector`."""
        named = self.budget is not None or self.inverse
        return self.criterion == self.strategy == AUTO and not named

    @cached_property
    def spec(self) -> CriterionSpec | None:
        """The criterion, parsed; None if `auto` picks it."""
        from deadhead.scoring.spec import CriterionSpec

        return None if self.undecided else CriterionSpec.parse(self.settled().criterion)

    @property
    def makes_groups(self) -> bool:
        """Whether the strategy groups heads by what they attend to."""
        from deadhead.strategies import STRATEGIES

        return self.strategy != AUTO and STRATEGIES[self.strategy].makes_groups

    @property
    def judged_every(self) -> int | None:
        """After how many moves the model is judged; None: at about ten points of the curve."""
        if self.every_step or (self.evaluate_every is None and self.max_drop is not None):
            return 1
        return self.evaluate_every

    @property
    def rules(self) -> Rules:
        """What may be removed."""
        from deadhead.strategies import Rules

        gqa = self.gqa
        if self.makes_groups:  # whole key/value heads by unit; heads alone in any number
            gqa = "whole_groups" if self.clustering.unit == "kv" else "ungroup"
        clustering = replace(self.clustering, seed=self.seed)
        return Rules(self.inverse, self.scope, self.keep_at_least, gqa, clustering, self.sites)

    @property
    def needs_scores(self) -> bool:
        """Whether choosing scores heads by `criterion`: `clusters` for a budget without a table."""
        return not self.makes_groups or self.clustering.needs_scores

    @property
    def needs_prompts(self) -> bool:
        """Whether choosing compares heads on prompts."""
        return self.makes_groups and self.clustering.needs_prompts

    def plan(self, mask: HeadMask, copies: Mapping[Head, Head] | None = None) -> PruningPlan:
        """Return the plan that leaves a mask."""
        gqa = self.gqa
        if self.makes_groups and gqa == "whole_groups":
            gqa = self.rules.gqa  # single heads are grouped: their groups do not stay whole
        repair = self.settled().repair
        return PruningPlan(mask, copies or {}, self.action, gqa, self.slope, repair)


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose parts contradict each other, before any work.

    Raises:
        UnknownNameError: a name that no registry holds.
        BudgetError: an amount or a combination that makes no sense.
    """
    from deadhead.pruning.moves import Budget  # with the registries, which take seconds
    from deadhead.pruning.trajectory import StopRules
    from deadhead.repair.base import REPAIRS
    from deadhead.repair.fits import UNREPAIRABLE
    from deadhead.strategies import STRATEGIES

    chosen = recipe.settled()
    strategy = None if chosen.undecided else STRATEGIES[chosen.strategy]
    _ = chosen.spec, REPAIRS[chosen.repair], recipe.rules  # check themselves
    check_choices(recipe, but=("strategy", "repair", "gqa"))  # open registries, checked otherwise
    StopRules(0, recipe.max_drop, recipe.patience)
    every = recipe.evaluate_every
    if every is not None and every < 1:
        raise BudgetError(f"evaluate_every is {every}; give 1 or more moves")
    if recipe.every_step and every not in (None, 1):
        raise _twice("every_step", f"evaluate_every={every}", "which steps are judged")
    recipe.plan(HeadMask(()))  # checks itself
    for budget in () if recipe.budget is None else Budget.parse_all(recipe.budget):
        single = strategy is not None and not strategy.nested
        if strategy and single and (strategy.makes_groups or budget.of == "latency"):
            nested = " or ".join(name for name, other in STRATEGIES.items() if other.nested)
            raise BudgetError(
                f"budget {budget} is met step by step, and strategy {chosen.strategy!r} makes one;"
                f" choose {nested}, or say how many --heads"
            )
        if recipe.cut is not None:
            raise _twice(f"cut={recipe.cut!r}", f"budget {budget}", "where to end")
    if strategy is not None and strategy.minimizes_error and recipe.inverse:
        raise _idle("inverse", chosen, "looks for the smallest error of the whole mask")
    if strategy is not None and strategy.makes_groups:
        for name in ("cut", "inverse", "scope", "keep_at_least", "sites"):
            if getattr(recipe, name) != getattr(Recipe(), name):
                asked = f"{name}={getattr(recipe, name)!r}"
                raise _idle(asked, chosen, "groups all heads at once")
    elif recipe.action in COPYING:
        raise BudgetError(
            f"action {recipe.action!r} needs to know which head a copy comes from, and strategy"
            f" {chosen.strategy!r} does not say; choose strategy clusters, or action remove, mask"
        )
    if recipe.action == "duplicate" and chosen.repair != "none":
        raise BudgetError(UNREPAIRABLE)


def _twice(one: str, other: str, what: str) -> BudgetError:
    return BudgetError(f"{one} and {other} both say {what}; leave one out")


def _idle(option: str, recipe: Recipe, why: str) -> BudgetError:
    return BudgetError(
        f"{option} means nothing to strategy {recipe.strategy!r}, which {why}; leave it out, or"
        " choose strategy greedy"
    )


Function = TypeVar("Function", bound=Callable[..., Any])


def with_options(settings: Callable[..., Any], function: Function) -> Function:
    """Show options in a function's signature, and refuse any other argument by its nearest name."""
    own = inspect.signature(function).parameters
    named = [p for p in own.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = inspect.signature(settings).parameters.values()
    known = [parameter.name for parameter in (*named, *options)]

    @wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        for name in given:
            if name not in known:
                raise ArgumentError(f"{function.__name__}: {unknown_name('argument', name, known)}")
        return function(*args, **given)

    made: Any = checked
    made.__signature__ = inspect.Signature([*named, *options])
    made.__qualname__ = function.__name__
    return made


def recipe_of(
    recipe: Recipe | None, positional: tuple[Any, ...], options: Mapping[str, Any]
) -> Recipe:
    """Return a recipe with some of its fields changed; refuse what is given in place of one."""
    if positional or not isinstance(recipe, Recipe | None):
        odd = positional[0] if positional else recipe
        raise ArgumentError(
            f"{odd!r:.80} is not a recipe; give a deadhead.Recipe, or its fields by name: heads=0.5"
        )
    return replace(recipe or Recipe(), **options)
