"""sweep: many ways of choosing, at many amounts, under every action, on one loaded model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.given import as_batches
from deadhead.errors import BudgetError, HeadError
from deadhead.measure import Timer
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments
from deadhead.pruning.auto import AutoSelector
from deadhead.pruning.moves import check_reached, context_of, moves_to
from deadhead.pruning.prune import choose_plan
from deadhead.pruning.recipe import AUTO
from deadhead.repair import (
    REPAIRS,
    applied_repaired,
    apply_repaired_,
    fit,
    repair_notes,
    without_training,
)
from deadhead.scoring import Scorer
from deadhead.similarity import Clustering, GramFn
from deadhead.strategies import STRATEGIES, droppable
from deadhead.studies.baseline import random_masks
from deadhead.studies.grid import (
    RANDOM_GROUPS,
    RANDOM_HEADS,
    Point,
    Reading,
    SweepGrid,
    method_name,
)
from deadhead.surgery.fold import removal_of
from deadhead.surgery.plans import as_view
from deadhead.surgery.remove import cuts_of
from deadhead.types import HeadMask, PruningPlan

SMALLER = ("remove", "fold")  # actions whose models are really smaller

Judge = Callable[[nn.Module], Mapping[str, Reading]]


def sweep(
    model: nn.Module | HeadModel,
    data: Any,
    grid: SweepGrid,
    judges: Sequence[Judge],
    *,
    scorer_of: Callable[[str], Scorer],
    grams: GramFn,
    selector: AutoSelector | None = None,
    moments: Callable[[], Moments] | None = None,
    tokenizer: Any = None,
    train: Callable[[nn.Module], object] | None = None,
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None,
    done: Mapping[tuple[str, str, float, int], Point] | None = None,
    on_point: Callable[[Point], None] = lambda point: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> list[Point]:
    """Judge the dense model and every plan of a sweep on one loaded model.

    The model is never loaded again and comes back bit for bit: duplication and masks last as long
    as their evaluation, and what gets really smaller is cut out of a copy, one at a time.

    Args:
        model: the model.
        data: calibration data, for repairs that run it, as of `prune`; None if none does.
        grid: what to go through.
        judges: each from a model to its readings by name.
        scorer_of: from a criterion to its scorer; see `ScorerGroup.of`.
        grams: runs the prompts, see `head_grams`; called once per scope.
        selector: for the method `auto`.
        moments: of the dense model, for repairs.
        tokenizer: the model's, where `data` are texts.
        train: trains a cut copy in place, for the repair `distill`; the copy is judged and dropped.
        measure: sizes and timings of a smaller model; None: nothing is really cut.
        done: points of an interrupted sweep, by key.
        on_point: called with every new point.
        on_note: called with what the user should know about a point's repair.

    Cost: an evaluation per point; one forward pass over the prompts per scope, and one scoring per
    criterion.

    Raises:
        BudgetError: a share that cannot be reached, or nothing to train with.
    """
    if grid.trains and train is None:
        raise BudgetError("repair 'distill' trains the cut model; give train, which does")
    if any(strategy == AUTO for strategy, _ in grid.chosen) and selector is None:
        raise BudgetError("method 'auto' needs an AutoSelector; give selector")
    if moments is None and any(REPAIRS[repair].needs_moments for repair in grid.repairs):
        raise BudgetError(f"repairs {grid.repairs} are fitted from moments; give moments")
    kept, view = cache(grams), as_view(model)
    batches = None if data is None else as_batches(data, view.model, tokenizer, size=None)
    run = _Sweep(
        view, grid, judges, scorer_of, kept, selector, moments, batches, train, measure, on_note
    )
    done, points = dict(done or {}), []
    for planned in run.plans():
        made = done.get(planned.key)
        if made is None:
            made = run.judged(planned)
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


@dataclass(frozen=True)
class _Sweep:
    """The arguments of `sweep`."""

    view: HeadModel
    grid: SweepGrid
    judges: Sequence[Judge]
    scorer_of: Callable[[str], Scorer]
    grams: GramFn
    selector: AutoSelector | None
    moments: Callable[[], Moments] | None
    batches: Sequence[Batch] | None
    train: Callable[[nn.Module], object] | None
    measure: Callable[[nn.Module], Mapping[str, float]] | None
    on_note: Callable[[str], None]

    def plans(self) -> Iterator[_Planned]:
        """Yield the dense model, and every plan."""
        view, grid = self.view, self.grid
        yield _Planned(PruningPlan(view.mask, action="mask"), "dense", 0.0)
        plans = self._by_methods()
        for fraction in grid.fractions:
            for clustering in grid.measured:
                recipe = grid.of_clusters(clustering, fraction, grid.actions[0])
                scores = None
                if clustering.needs_scores:
                    scores = self.scorer_of(recipe.settled().criterion)(view.mask)
                plan = choose_plan(view, None, recipe, scores=scores, grams=self.grams)
                for action in grid.actions:
                    yield _Planned(replace(plan, action=action), clustering.name, fraction)
            for planned in plans[fraction]:
                yield from planned.under(grid.plain, grid.repairs_of(planned.method))
            yield from self._drawn(fraction)

    def _by_methods(self) -> dict[float, list[_Planned]]:
        """Choose by every criterion, at all fractions in one go where masks are nested."""
        view, grid = self.view, self.grid
        found: dict[float, list[_Planned]] = {fraction: [] for fraction in grid.fractions}

        def add(fraction: float, mask: HeadMask, seconds: float) -> None:
            planned = _Planned(recipes[fraction].plan(mask), name, fraction, seconds=seconds)
            found[fraction].append(planned)

        for strategy, criterion in grid.chosen:
            name = method_name(strategy, criterion)
            recipes = {
                fraction: grid.of_criterion(criterion, fraction, strategy=strategy)
                for fraction in grid.fractions
            }
            limits = {f: droppable(view, view.mask, r.rules, f) for f, r in recipes.items()}
            mask = view.mask
            if strategy == AUTO and self.selector is not None:
                looked = self.selector.run_pass()
                for fraction, recipe in recipes.items():
                    timer = Timer(view.model)
                    choice = self.selector(recipe, limits[fraction])
                    self.on_note(f"{name} at {fraction:.0%}: {choice.describe()}")
                    add(fraction, choice.mask, looked + timer.seconds)
                continue
            scorer = self.scorer_of(criterion)
            looked = scorer.run_pass()
            timer = Timer(view.model)
            for fraction in sorted(grid.fractions):
                start = mask if STRATEGIES[strategy].nested else view.mask
                context = context_of(view, recipes[fraction], scorer, scorer=scorer, start=start)
                for move in moves_to(context, strategy, [limits[fraction]]):
                    mask = move.mask
                check_reached(mask, limits[fraction])
                add(fraction, mask, looked + timer.seconds)
        return found

    def _drawn(self, fraction: float) -> Iterator[_Planned]:
        view, grid = self.view, self.grid
        rules = grid.of_criterion("random", fraction).rules
        if grid.clusterings:  # as many heads as the groups drop beside which the draws stand
            rules = grid.of_clusters(grid.clusterings[0], fraction, "mask").rules
        total = droppable(view, view.mask, rules, fraction) if grid.draws else 0
        unit = grid.clusterings[0].unit if grid.clusterings else "head"
        for draw in range(grid.draws):
            mask = random_masks(view, [total], rules, grid.seed + draw)[0]
            plan = PruningPlan(mask, action="mask", gqa=grid.gqa)
            heads = _Planned(plan, RANDOM_HEADS, fraction, draw)
            yield from heads.under(("mask",), grid.repairs_of(RANDOM_HEADS))
            if grid.of_random_groups:
                how = Clustering(grouping="random", representative="random", unit=unit)
                recipe = grid.of_clusters(how, fraction, grid.of_random_groups)
                recipe = replace(recipe, seed=grid.seed + draw)
                plan = choose_plan(view, None, recipe, grams=self.grams)
                yield _Planned(plan, RANDOM_GROUPS, fraction, draw)

    def judged(self, planned: _Planned) -> Point:
        """Judge one plan; what is impossible is a point without readings."""
        view, plan = self.view, without_training(planned.plan)
        repair = REPAIRS[planned.plan.repair]
        made = Point(
            method=planned.method,
            action=plan.action,
            asked=planned.asked,
            dropped=len(plan.mask.dropped),
            actual=plan.mask.sparsity,
            draw=planned.draw,
        )
        moments = self.moments() if repair.needs_moments and self.moments is not None else None
        timer = Timer(view.model)
        fits = fit(view, plan, moments, batches=self.batches, strict=self.grid.strict)
        for note in repair_notes(fits):
            self.on_note(note)

        def timed() -> Point:
            return replace(made, seconds=planned.seconds + timer.seconds)

        train = self.train if repair.begins_with else None
        measure = self.measure if plan.action in SMALLER else None
        try:
            if train is None and measure is None:
                made = timed()
                with applied_repaired(view, plan, fits) as model:
                    return replace(made, readings=self._readings(model))
            if plan.action in SMALLER:
                _check_smaller(view, plan)  # before it is copied
            model = apply_repaired_(copy.deepcopy(view.model), plan, fits)
            if train is not None:
                train(model)
            made, readings = timed(), self._readings(model)
            return replace(made, readings=readings, size=dict(measure(model)) if measure else {})
        except HeadError as error:
            return replace(made, reason=_reason(view, plan, error))

    def _readings(self, model: nn.Module) -> dict[str, Reading]:
        return {name: reading for judge in self.judges for name, reading in judge(model).items()}


def _reason(view: HeadModel, plan: PruningPlan, error: HeadError) -> str:
    """Say why an action is impossible, and whether only the policy forbids it."""
    if plan.action in SMALLER:
        ungrouped = replace(plan, gqa="ungroup")
        if not _gets_smaller(view, plan) and _gets_smaller(view, ungrouped):
            return f"gqa policy {plan.gqa!r} forbids it: {error}"
    return f"{'not exact' if plan.action == 'fold' else 'cannot be done'}: {error}"


def _gets_smaller(view: HeadModel, plan: PruningPlan) -> bool:
    try:
        _check_smaller(view, plan)
    except HeadError:
        return False
    return True


def _check_smaller(view: HeadModel, plan: PruningPlan) -> None:
    (removal_of if plan.action == "fold" else cuts_of)(view, plan)
