"""What a pruning run does, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from deadhead.errors import BudgetError, unknown_name
from deadhead.losses.losses import loss_named
from deadhead.pruning.budgets import Budget
from deadhead.pruning.stopping import StopRules
from deadhead.repair import repair_names
from deadhead.repair.distill.settings import Distillation
from deadhead.scoring.combine import parts_of
from deadhead.similarity import Clustering
from deadhead.strategies import Rules, strategy_named
from deadhead.types import COPYING, Head, HeadMask, PruningPlan

AUTO = "auto"
NESTED = ("greedy", "one_shot", "second_look")  # strategies whose masks shrink step by step
REPAIR_AT = ("step", "end")


@dataclass(frozen=True)
class Recipe:
    """What `prune` does, as plain values.

    Attributes:
        criterion: name, perhaps with options: `gradient_norm:reduction=batch`; `auto`: see
            `settled`.
        strategy: `one_shot`, `greedy`, `second_look`, `search` or `clusters`; `auto`: see
            `settled`.
        repair: `bias`, `least_squares`, `least_squares_sequential`, `distill` (`least_squares`, and
            in the end training against the dense model), `none`; `auto`: see `settled`.
        repair_at: `step`: the curve is that of repaired models; `end`: the plan's model alone is
            repaired.
        heads: how many to drop: `int` counts, `float` in (0, 1] is a fraction of all.
        budget: what may stay, as `parameters=80%`, see `Budget`; `heads` is then not looked at.
        cut: how many the plan cuts in the end, if fewer than the curve covers; None: all.
        per_step: heads (int) or fraction (float) that one move drops.
        inverse, scope, keep_at_least, gqa: see `Rules`.
        max_drop, patience: see `StopRules`.
        evaluate_every: evaluate every so many moves, and the last.
        loss: loss for gradient criteria; None: the criterion's own.
        seed: for criteria that draw.
        action: what becomes of the heads that go: `remove`, `mask`; of `clusters` also `duplicate`
            and `fold`.
        slope: see `PruningPlan`.
        clustering: how the strategy `clusters` groups heads.
        distillation: how the repair `distill` trains.
        strict: refuse calibration data that is too little for what is asked, instead of a note.
    """

    criterion: str = "auto"
    strategy: str = "auto"
    repair: str = "auto"
    repair_at: str = "step"
    heads: int | float = 0.5
    budget: str | None = None
    cut: int | float | None = None
    per_step: int | float = 1
    inverse: bool = False
    scope: str = "global"
    keep_at_least: int = 0
    gqa: str = "whole_groups"
    max_drop: float | None = None
    patience: int = 1
    evaluate_every: int = 1
    loss: str | None = None
    seed: int = 0
    action: str = "remove"
    slope: str = "target"
    clustering: Clustering = field(default_factory=Clustering)
    distillation: Distillation = field(default_factory=Distillation)
    strict: bool = False

    def __post_init__(self) -> None:
        chosen = self.settled()
        if not chosen.undecided:
            strategy_named(chosen.strategy)
            parts_of(chosen.criterion)
        if chosen.repair not in repair_names():
            raise unknown_name("repair", chosen.repair, repair_names())
        if self.repair_at not in REPAIR_AT:
            raise unknown_name("repair_at", self.repair_at, REPAIR_AT)
        if self.loss is not None:
            loss_named(self.loss)
        _ = self.rules  # checks itself
        StopRules(0, self.max_drop, self.patience)
        if self.evaluate_every < 1:
            raise BudgetError(f"evaluate_every is {self.evaluate_every}; give 1 or more moves")
        self.plan(HeadMask(()))  # checks itself
        if self.budget is not None:
            for budget in Budget.parse_all(self.budget):
                self._check_budget(budget, chosen.strategy)
        if chosen.strategy == "search" and self.inverse:
            raise BudgetError(
                "inverse means nothing to strategy 'search', which looks for the smallest error of"
                " the whole mask; leave it out, or choose strategy greedy"
            )
        if chosen.strategy == "clusters":
            self._check_clusters()
        elif self.action in COPYING:
            raise BudgetError(
                f"action {self.action!r} needs to know whose copy a head becomes, which strategy"
                f" {chosen.strategy!r} does not say; choose strategy clusters, or action remove,"
                " mask"
            )
        if self.action == "duplicate" and chosen.repair != "none":
            raise BudgetError(
                "duplicated heads cannot be repaired: each keeps its own output slice; choose the"
                " action fold (the same logits with fewer heads), mask or remove, or repair none"
            )

    def _check_budget(self, budget: Budget, strategy: str) -> None:
        if strategy not in NESTED and (strategy != "search" or budget.of == "latency"):
            raise BudgetError(
                f"budget {budget} is met step by step, and strategy {strategy!r} makes one; choose"
                f" {' or '.join(NESTED)}, or say how many --heads"
            )
        if self.cut is not None:
            raise BudgetError(
                f"cut={self.cut!r} and budget {budget} both say where to end; leave one out"
            )

    def settled(self) -> Recipe:
        """Return the recipe with `auto` replaced by what it stands for, as far as that is known.

        Who names no method gets the order that a look at the model decides on (`decide`), repaired
        by `least_squares`: the best of the tables in docs/results.md. Who names a strategy, a
        budget or `inverse` only gets `reconstruction`, by itself greedy, with the same repair. Who
        names a criterion or `clusters` gets that method alone, without repair, unless he asks for
        one.
        """
        named = self.criterion != AUTO or self.strategy == "clusters"
        values = {"repair": "none" if named else "least_squares"}
        if not self.undecided:
            values |= {"strategy": "greedy", "criterion": "reconstruction"}
        chosen = {k: v for k, v in values.items() if getattr(self, k) == AUTO}
        return replace(self, **chosen) if chosen else self

    @property
    def undecided(self) -> bool:
        """Whether the method depends on the model: nothing is named; see `decide`."""
        named = self.budget is not None or self.inverse
        return self.criterion == self.strategy == AUTO and not named

    def _check_clusters(self) -> None:
        plain = Recipe()
        for name in ("cut", "inverse", "scope", "keep_at_least"):
            if getattr(self, name) != getattr(plain, name):
                raise BudgetError(
                    f"{name}={getattr(self, name)!r} means nothing to strategy 'clusters', which"
                    " groups all heads at once; leave it out"
                )

    @property
    def rules(self) -> Rules:
        """What may be dropped."""
        gqa = self.gqa
        if self.strategy == "clusters":  # whole key/value heads by unit; heads alone in any number
            gqa = "whole_groups" if self.clustering.unit == "kv" else "ungroup"
        clustering = replace(self.clustering, seed=self.seed)
        return Rules(self.inverse, self.scope, self.keep_at_least, gqa, clustering)

    @property
    def needs_scores(self) -> bool:
        """Whether choosing scores heads by `criterion`: `clusters` for a budget without a table."""
        return self.strategy != "clusters" or self.clustering.needs_scores

    @property
    def needs_prompts(self) -> bool:
        """Whether choosing compares heads on prompts."""
        return self.strategy == "clusters" and self.clustering.needs_prompts

    def plan(self, mask: HeadMask, copies: Mapping[Head, Head] | None = None) -> PruningPlan:
        """Return the plan that leaves a mask."""
        gqa = self.gqa
        if self.strategy == "clusters" and gqa == "whole_groups":
            gqa = self.rules.gqa  # single heads are grouped: their groups do not stay whole
        repair = self.settled().repair
        return PruningPlan(mask, copies or {}, self.action, gqa, self.slope, repair)
