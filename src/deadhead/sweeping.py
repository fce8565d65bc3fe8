"""sweep: many ways of choosing, at many amounts, under every action, on one loaded model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from deadhead.baseline import no_grams, random_masks
from deadhead.errors import BudgetError, HeadError
from deadhead.heads import HeadModel
from deadhead.moments import Moments
from deadhead.pruning import check_reached, choose, moves_to
from deadhead.readings import RANDOM_GROUPS, RANDOM_HEADS, Point, Reading
from deadhead.recipe import NESTED, Recipe
from deadhead.repair import applied_repaired, apply_repaired_, fit
from deadhead.similarity import Clustering, GramFn
from deadhead.strategies import ScoreFn, droppable
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
        methods: more ways to choose by a criterion, as (strategy, criterion), under the same.
        repairs: of what criteria, methods and random heads leave; each on its own.
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
    methods: tuple[tuple[str, str], ...] = ()
    repairs: tuple[str, ...] = ("none",)
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
            for strategy, criterion in self.chosen:
                for repair in self.repairs:
                    self.of_criterion(criterion, fraction, strategy=strategy, repair=repair)

    @property
    def chosen(self) -> tuple[tuple[str, str], ...]:
        """All ways to choose by a criterion, as (strategy, criterion)."""
        return (*(("one_shot", criterion) for criterion in self.criteria), *self.methods)

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

    def of_criterion(
        self, criterion: str, fraction: float, *, strategy: str = "one_shot", repair: str = "none"
    ) -> Recipe:
        """Return the recipe of one plan by a criterion."""
        return Recipe(
            criterion=criterion,
            strategy=strategy,
            repair=repair,
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
    moments: Callable[[], Moments] | None = None,
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
        moments: of the dense model, for repairs.
        measure: sizes and timings of a smaller model; None: nothing is really cut.
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
            made = _judged(view, point, judges, moments, measure)
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
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, float, int]:
        return self.method, self.plan.action, self.asked, self.draw

    def under(self, actions: Sequence[str], repairs: Sequence[str]) -> Iterator[_Planned]:
        """Yield the same plan under actions and repairs."""
        for action in actions:
            for repair in repairs:
                plan = replace(self.plan, action=action, repair=repair)
                name = self.method if repair == "none" else f"{self.method} + {repair}"
                yield replace(self, plan=plan, method=name)


def count_points(asked: Sweep) -> int:
    """Count the points of a sweep, the dense model included."""
    by_criteria = len(asked.chosen) * len(asked.plain) * len(asked.repairs)
    each = len(asked.measured) * len(asked.actions) + by_criteria
    drawn = asked.draws * (len(asked.repairs) + bool(asked.of_random_groups))
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

    plans = _by_methods(view, asked, score)
    for fraction in asked.fractions:
        for clustering in asked.measured:
            recipe = asked.of_clusters(clustering, fraction, asked.actions[0])
            scores = None
            if clustering.grouping == "importance_budget" and clustering.importance is None:
                scores = score(recipe.settled().criterion)(view.mask)
            plan = choose(view, None, recipe, scores=scores, grams=grams_once)
            for action in asked.actions:
                yield _Planned(replace(plan, action=action), clustering.name, fraction)
        for planned in plans[fraction]:
            yield from planned.under(asked.plain, asked.repairs)
        yield from _drawn(view, asked, fraction, grams_once)


def _by_methods(
    view: HeadModel, asked: Sweep, score: Callable[[str], ScoreFn]
) -> dict[float, list[_Planned]]:
    """Choose by every criterion, at all fractions in one go where masks are nested."""
    found: dict[float, list[_Planned]] = {fraction: [] for fraction in asked.fractions}
    for strategy, criterion in asked.chosen:
        name = criterion if strategy == "one_shot" else f"{strategy} {criterion}"
        recipes = {
            fraction: asked.of_criterion(criterion, fraction, strategy=strategy)
            for fraction in asked.fractions
        }
        limits = {f: droppable(view, view.mask, r.rules, f) for f, r in recipes.items()}
        begun = time.perf_counter()
        mask = view.mask
        for fraction in sorted(asked.fractions):
            start = mask if strategy in NESTED else view.mask
            limit = (limits[fraction],)
            moves = moves_to(
                view, score(criterion), no_grams, recipes[fraction], start=start, limits=limit
            )
            for move in moves:
                mask = move.mask
            check_reached(mask, limits[fraction])
            seconds = time.perf_counter() - begun
            plan = recipes[fraction].plan(mask)
            found[fraction].append(_Planned(plan, name, fraction, seconds=seconds))
    return found


def _drawn(view: HeadModel, asked: Sweep, fraction: float, grams: GramFn) -> Iterator[_Planned]:
    rules = asked.of_criterion("random", fraction).rules
    if asked.clusterings:  # as many heads as the groups drop beside which the draws stand
        rules = asked.of_clusters(asked.clusterings[0], fraction, "mask").rules
    total = droppable(view, view.mask, rules, fraction) if asked.draws else 0
    unit = asked.clusterings[0].unit if asked.clusterings else "head"
    for draw in range(asked.draws):
        mask = random_masks(view, [total], rules, asked.seed + draw)[0]
        plan = PruningPlan(mask, action="mask", gqa=asked.gqa)
        yield from _Planned(plan, RANDOM_HEADS, fraction, draw).under(("mask",), asked.repairs)
        if asked.of_random_groups:
            how = Clustering(grouping="random", representative="random", unit=unit)
            recipe = asked.of_clusters(how, fraction, asked.of_random_groups)
            plan = choose(view, None, replace(recipe, seed=asked.seed + draw), grams=grams)
            yield _Planned(plan, RANDOM_GROUPS, fraction, draw)


def _judged(
    view: HeadModel,
    planned: _Planned,
    judges: Sequence[Judge],
    moments: Callable[[], Moments] | None,
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
    found = moments() if plan.repair != "none" and moments is not None else None
    begun = time.perf_counter()
    fits = {} if found is None else fit(view, plan, found, plan.repair)
    made = replace(made, seconds=planned.seconds + time.perf_counter() - begun)
    try:
        if plan.action in SMALLER and measure is not None:
            _check_smaller(view, plan)  # before it is copied
            model = apply_repaired_(copy.deepcopy(view.model), plan, fits)
            return replace(made, readings=_readings(model, judges), size=dict(measure(model)))
        with applied_repaired(view, plan, fits) as model:
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
