"""sweep: many ways of choosing, at many amounts, under every action, on one loaded model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from deadhead.baseline import random_masks
from deadhead.errors import BudgetError, HeadError
from deadhead.heads import HeadModel
from deadhead.pruning import choose
from deadhead.readings import RANDOM_GROUPS, RANDOM_HEADS, Point, Reading
from deadhead.recipe import Recipe
from deadhead.similarity import Clustering, GramFn
from deadhead.strategies import ScoreFn, droppable
from deadhead.surgery import applied, apply_
from deadhead.surgery.fold import removal_of
from deadhead.surgery.remove import cuts_of
from deadhead.types import COPYING, PruningPlan, count_heads

SMALLER = ("remove", "fold")  # actions whose models are really smaller


@dataclass(frozen=True)
class Sweep:
    """What to go through.

    Attributes:
        fractions: shares of all heads, each in (0, 1].
        clusterings: ways to group heads; each under every action. `random` ones are drawn, and
            looked at under the first action that copies, or under mask if none does.
        criteria: criteria to drop the lowest of, one-shot; under those of mask and remove that
            are asked for (mask if neither is).
        actions: `remove`, `mask`, `duplicate`, `fold`.
        draws: random draws, of heads and of `random` groups. 0: none.
        loss, slope, gqa, seed: as in `Recipe`.

    Raises:
        BudgetError: a fraction outside (0, 1].
        UnknownNameError: a name that is not known.
    """

    fractions: tuple[float, ...]
    clusterings: tuple[Clustering, ...] = ()
    criteria: tuple[str, ...] = ()
    actions: tuple[str, ...] = ("duplicate", "mask", "fold")
    draws: int = 0
    loss: str | None = None
    slope: str = "target"
    gqa: str = "whole_groups"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 0:
            raise BudgetError(f"{self.draws} random draws; give 0 (none) or more, 20 for a band")
        if not self.fractions or not self.actions:
            raise BudgetError("a sweep needs a share of the heads and an action; name one or more")
        if self.measured != self.clusterings and not self.draws:
            raise BudgetError("random groups are drawn; say how often (--random 20)")
        for fraction in self.fractions:
            count_heads(fraction, 1)  # checks that it is a share
            for action in self.actions:
                for clustering in self.clusterings or (Clustering(),):
                    self.of_clusters(clustering, fraction, action)
            for criterion in self.criteria:
                self.of_criterion(criterion, fraction)

    @property
    def measured(self) -> tuple[Clustering, ...]:
        """Clusterings that look at distances."""
        return tuple(c for c in self.clusterings if c.grouping != "random")

    @property
    def of_random_groups(self) -> str:
        """Action that random groups are looked at under; empty if there are none."""
        copying = [a for a in self.actions if a in COPYING]
        return (*copying, "mask")[0] if self.measured != self.clusterings else ""

    @property
    def plain(self) -> tuple[str, ...]:
        """Actions for what has no copies: those of mask and remove that are asked for."""
        return tuple(a for a in self.actions if a not in COPYING) or ("mask",)

    def of_clusters(self, clustering: Clustering, fraction: float, action: str) -> Recipe:
        """Return the recipe of one plan by clusters."""
        return Recipe(
            strategy="clusters",
            heads=fraction,
            clustering=clustering,
            action=action,
            criterion=self.criteria[0] if self.criteria else Recipe.criterion,
            loss=self.loss,
            slope=self.slope,
            gqa=self.gqa,
            seed=self.seed,
        )

    def of_criterion(self, criterion: str, fraction: float) -> Recipe:
        """Return the recipe of one plan by a criterion."""
        return Recipe(
            criterion=criterion,
            strategy="one_shot",
            heads=fraction,
            loss=self.loss,
            gqa=self.gqa,
            seed=self.seed,
        )


Judge = Callable[[nn.Module], Mapping[str, Reading]]


def sweep(
    view: HeadModel,
    asked: Sweep,
    judges: Sequence[Judge],
    *,
    score: Callable[[str], ScoreFn],
    grams: GramFn,
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None,
    done: Mapping[tuple[str, str, float, int], Point] | None = None,
    on_point: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Judge the dense model and every plan of a sweep on one loaded model.

    The model is never loaded again and comes back bit for bit: duplication and masks last as long
    as their evaluation, and what gets really smaller is cut out of a copy, one at a time.

    Args:
        view: the model.
        asked: what to go through.
        judges: each from a model to its readings by name.
        score: from a criterion to a function that scores what a mask leaves.
        grams: runs the prompts, see `head_grams`; called once per scope.
        measure: sizes and timings of a smaller model.
        done: points of an interrupted sweep, by key.
        on_point: called with every new point.

    Cost: an evaluation per point; one forward pass over the prompts per scope, and one scoring per
    criterion.

    Raises:
        BudgetError: a share that cannot be had.
    """
    done, points = dict(done or {}), []
    for point in _points(view, asked, score, grams):
        made = done.get(point.key)
        if made is None:
            made = _judged(view, point, judges, measure)
            on_point(made)
        points.append(made)
    return points


@dataclass(frozen=True)
class _Planned:
    """A point before it is judged, and its plan."""

    plan: PruningPlan
    method: str
    asked: float
    draw: int = 0

    @property
    def key(self) -> tuple[str, str, float, int]:
        return self.method, self.plan.action, self.asked, self.draw


def count_points(asked: Sweep) -> int:
    """Count the points of a sweep, the dense model included."""
    each = len(asked.measured) * len(asked.actions) + len(asked.criteria) * len(asked.plain)
    drawn = asked.draws * (1 + bool(asked.of_random_groups))
    return 1 + len(asked.fractions) * (each + drawn)


def _points(
    view: HeadModel, asked: Sweep, score: Callable[[str], ScoreFn], grams: GramFn
) -> Iterator[_Planned]:
    yield _Planned(PruningPlan(view.mask, action="mask"), "dense", 0.0)
    kept: dict[str, Any] = {}

    def grams_once(scope: str) -> Any:
        if scope not in kept:
            kept[scope] = grams(scope)
        return kept[scope]

    for fraction in asked.fractions:
        for clustering in asked.measured:
            recipe = asked.of_clusters(clustering, fraction, asked.actions[0])
            scores = None
            if clustering.grouping == "importance_budget" and clustering.importance is None:
                scores = score(recipe.settled().criterion)(view.mask)
            plan = choose(view, None, recipe, scores=scores, grams=grams_once)
            for action in asked.actions:
                yield _Planned(replace(plan, action=action), clustering.name, fraction)
        for criterion in asked.criteria:
            recipe = asked.of_criterion(criterion, fraction)
            plan = choose(view, None, recipe, scores=score(criterion)(view.mask))
            for action in asked.plain:
                yield _Planned(replace(plan, action=action), criterion, fraction)
        yield from _drawn(view, asked, fraction, grams_once)


def _drawn(view: HeadModel, asked: Sweep, fraction: float, grams: GramFn) -> Iterator[_Planned]:
    rules = asked.of_criterion("random", fraction).rules
    if asked.clusterings:  # as many heads as the groups drop beside which the draws stand
        rules = asked.of_clusters(asked.clusterings[0], fraction, "mask").rules
    total = droppable(view, view.mask, rules, fraction) if asked.draws else 0
    unit = asked.clusterings[0].unit if asked.clusterings else "head"
    for draw in range(asked.draws):
        mask = random_masks(view, [total], rules, asked.seed + draw)[0]
        yield _Planned(
            PruningPlan(mask, action="mask", gqa=asked.gqa), RANDOM_HEADS, fraction, draw
        )
        if asked.of_random_groups:
            how = Clustering(grouping="random", representative="random", unit=unit)
            recipe = asked.of_clusters(how, fraction, asked.of_random_groups)
            plan = choose(view, None, replace(recipe, seed=asked.seed + draw), grams=grams)
            yield _Planned(plan, RANDOM_GROUPS, fraction, draw)


def _judged(
    view: HeadModel,
    planned: _Planned,
    judges: Sequence[Judge],
    measure: Callable[[nn.Module], Mapping[str, float]] | None,
) -> Point:
    plan = planned.plan
    made = Point(
        method=planned.method,
        action=plan.action,
        asked=planned.asked,
        dropped=len(plan.mask.dropped),
        actual=plan.mask.sparsity,
        draw=planned.draw,
    )
    try:
        if plan.action in SMALLER:
            _check_smaller(view, plan)  # before it is copied
            model = apply_(copy.deepcopy(view.model), plan)
            size = dict(measure(model)) if measure is not None else {}
            return replace(made, readings=_readings(model, judges), size=size)
        with applied(view, plan) as model:
            return replace(made, readings=_readings(model, judges))
    except HeadError as error:
        return replace(made, reason=_reason(view, plan, error))


def _reason(view: HeadModel, plan: PruningPlan, error: HeadError) -> str:
    """Say why an action cannot be had, and whether it is for the policy alone."""
    if plan.action in SMALLER:
        try:
            _check_smaller(view, replace(plan, gqa="ungroup"))
        except HeadError:
            pass
        else:
            return f"gqa policy {plan.gqa!r} forbids it: {error}"
    return f"{'not exact' if plan.action == 'fold' else 'cannot be done'}: {error}"


def _check_smaller(view: HeadModel, plan: PruningPlan) -> None:
    (removal_of if plan.action == "fold" else cuts_of)(view, plan)


def _readings(model: nn.Module, judges: Sequence[Judge]) -> dict[str, Reading]:
    return {name: reading for judge in judges for name, reading in judge(model).items()}
