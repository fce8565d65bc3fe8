"""prune: score, choose, evaluate, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from deadhead.data.inputs import Batch
from deadhead.errors import BudgetError, DataError, HeadError, ScoreError
from deadhead.losses.divergence import Probe
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments
from deadhead.pruning.auto import Decider, Decision
from deadhead.pruning.budgets import Budget, BudgetMeter, BudgetMeters
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.stopping import StopRules
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.repair import Fits, applied_repaired, fit, notes_of
from deadhead.scoring import Scorer
from deadhead.similarity import GramFn, HeadGrams, check_units, head_grams
from deadhead.strategies import Move, ScoreFn, droppable, shortfall, strategy_named, units
from deadhead.surgery import masked
from deadhead.tasks import Task, TaskSet
from deadhead.types import Head, HeadMask, HeadScores, PruningPlan, count_heads


@dataclass(frozen=True)
class Pruning:
    """The outcome of `prune`.

    Attributes:
        trajectory: the metric after every move, on `evaluated_on`.
        scores: scores of the model as it was given; None if nothing looked at any (`clusters`).
        plan: what to cut: the last step, or under `max_drop` the last that is good enough.
        fits: the plan's repair: what `repair.apply_repaired_` puts in.
        moments: what fits are made from; None without a repair.
        evaluated_on: `test`, or `selection` if a stopping rule looked at the metric.
        recipe: as it was settled, and decided on.
        decision: how; None if the method was named.
        notes: what the user should know of the calibration data, a line each.
    """

    trajectory: Trajectory
    scores: HeadScores | None
    plan: PruningPlan
    fits: Fits = field(default_factory=dict)
    moments: Moments | None = None
    evaluated_on: str = "test"
    recipe: Recipe = field(default_factory=Recipe)
    decision: Decision | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Progress:
    """Callbacks of a run; all optional.

    Attributes:
        on_step: called after every step.
        on_decision: called once if no method was named, with what was decided.
        on_scores: called once, with the scores of the model as it was given, if it is scored.
        on_work: called with the name of what was just done: `score` or `evaluate`.
    """

    on_step: Callable[[Step], None] = lambda step: None
    on_decision: Callable[[Decision], None] = lambda decision: None
    on_scores: Callable[[HeadScores], None] = lambda scores: None
    on_work: Callable[[str], None] = lambda what: None


@dataclass(frozen=True)
class Done:
    """What an interrupted run had done: its first scores, and its steps with the dense one.

    And what it had decided, if no method was named: decided again, on another machine, a near tie
    could go the other way.
    """

    scores: HeadScores | None = None
    steps: tuple[Step, ...] = ()
    decision: Decision | None = None


def prune(
    model: nn.Module | HeadModel,
    tasks: TaskSet,
    recipe: Recipe | None = None,
    *,
    prompts: Iterable[Batch] | None = None,
    done: Done | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Pruning:
    """Choose which heads go and measure what each move costs. The model is only masked.

    Args:
        model: the model, as it was loaded.
        tasks: calibration data for scores, selection data for stopping rules, test data for the
            curve (`deadhead.open_task` makes them).
        recipe: what to do.
        prompts: batches that `clusters` compares heads on; None: the calibration data.
        done: steps of an interrupted run to go on from.
        progress: callbacks.
        **changes: fields of the recipe to override: `prune(model, tasks, heads=.75)`.

    Cost: one scoring per move (greedy) or one in all (one_shot; of `clusters` for a budget by a
    criterion only), and one evaluation per `evaluate_every` moves.

    Raises:
        BudgetError: the heads asked for cannot be had under the rules.
        UnknownNameError: a criterion, strategy, scope or policy that is not known.
        HeadError: the plan's action cannot be had for this model (folding, where it is not exact),
            or `unit="kv"` and key/value heads with unequal numbers of query heads.

    Example:
        >>> run = prune(model, tasks, criterion="taylor", heads=0.5)  # doctest: +SKIP
        >>> remove_(model, run.plan)  # doctest: +SKIP
    """
    recipe = Recipe(**{**(recipe.__dict__ if recipe else {}), **changes}).settled()
    done, progress = done or Done(), progress or Progress()
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    origin = view.mask
    if recipe.strategy == "clusters":
        check_units(view, recipe.clustering)  # refused before any work, as is a wrong option
    limit = droppable(view, origin, recipe.rules, recipe.heads if recipe.budget is None else 1.0)
    meter = meter_of(view, recipe, tasks.calibration.batches)
    most = limit if recipe.cut is None else droppable(view, origin, recipe.rules, recipe.cut)
    if most > limit:
        raise BudgetError(
            f"cut={recipe.cut!r} is more than the heads={recipe.heads!r} of the curve; ask for less"
        )
    stop = StopRules(limit, recipe.max_drop, recipe.patience)
    on, judge = _judge(tasks, recipe)
    steps = list(done.steps)
    if not steps:
        begun = time.perf_counter()
        dense = judge.evaluate(view.model).value
        progress.on_work("evaluate")
        steps = [Step(origin, (), dense, time.perf_counter() - begun)]
        progress.on_step(steps[0])
    dense, better = steps[0].metric, judge.greater_is_better
    # how many will go is not known where a metric stops it: then at half of what may go
    at = most if recipe.max_drop is None else (len(origin.dropped) + most + 1) // 2
    recipe, scorer, decision = _scoring(view, tasks.calibration, recipe, at, done.decision)
    if decision is not None:
        progress.on_decision(decision)

    def repair(mask: HeadMask, copies: Mapping[Head, Head]) -> Fits:
        if recipe.repair == "none" or mask == origin:
            return {}
        how = {"batches": tasks.calibration.batches(), "strict": recipe.strict}
        return fit(view, recipe.plan(mask, copies), scorer.moments, recipe.repair, **how)

    def evaluate(mask: HeadMask, copies: Mapping[Head, Head]) -> float:
        fits = repair(mask, copies) if recipe.repair_at == "step" else {}
        simple = not copies and not fits  # no rules of surgery to check at every step
        plan = recipe.plan(mask, copies)
        with masked(view, mask) if simple else applied_repaired(view, plan, fits):
            value = judge.evaluate(view.model).value
        progress.on_work("evaluate")
        return value

    score = _Scores(scorer, origin, progress, done.scores, steps)
    data = prompts
    if prompts is None and recipe.needs_prompts:
        data = tasks.calibration.batches()
    grams = _grams(view, data, recipe)
    start = steps[-1].mask
    limits = _limits(view, score, grams, recipe, meter, start=start, limits=(most, limit))
    moves = moves_to(view, score, grams, recipe, start=start, limits=limits)
    copies: dict[HeadMask, Mapping[Head, Head]] = {}
    if recipe.needs_scores:
        score(origin)
    begun = time.perf_counter()
    while not stop.met(steps[1:], dense, greater_is_better=better):
        if meter is not None and meter.met(steps[-1].mask):
            break
        move = next(moves, None)
        if move is None:
            check_reached(steps[-1].mask, limit)
            break
        last = len(move.mask.dropped) >= limit or (meter is not None and meter.met(move.mask))
        due = last or len(move.mask.dropped) == most or len(steps) % recipe.evaluate_every == 0
        copies[move.mask] = move.copies
        metric = evaluate(move.mask, move.copies) if due else float("nan")
        seconds = time.perf_counter() - begun
        steps.append(Step(move.mask, move.dropped, metric, seconds, move.scores))
        progress.on_step(steps[-1])
        begun = time.perf_counter()
    if meter is not None and recipe.max_drop is None:
        check_met(meter, steps[-1].mask)
    trajectory = Trajectory(steps[0], tuple(steps[1:]), judge.metric, better)
    good = [
        s
        for s in steps[1:]
        if len(s.mask.dropped) <= most and stop.acceptable(s, dense, greater_is_better=better)
    ]
    mask = (good or steps[:1])[-1].mask
    if recipe.strategy == "clusters" and mask != origin and mask not in copies:  # a resumed run
        again = next(moves_to(view, score, grams, recipe, start=origin, limits=(limit,)))
        if again.mask != mask:
            raise DataError(
                "the interrupted run had grouped the heads in another way: its prompts or its table"
                " of importance have changed; remove it and start again"
            )
        copies[again.mask] = again.copies
    chosen = copies.get(mask, {})
    plan, fits = recipe.plan(mask, chosen), repair(mask, chosen)
    moments = scorer.moments if recipe.repair != "none" else None
    notes = [*(scorer.notes if recipe.needs_scores else ()), *notes_of(fits)]
    if recipe.budget is None and (short := shortfall(view, origin, recipe.rules, recipe.heads)):
        notes.insert(0, short)
    return Pruning(trajectory, score.first, plan, fits, moments, on, recipe, decision, tuple(notes))


def _scoring(
    view: HeadModel, calibration: Task, recipe: Recipe, limit: int, decision: Decision | None
) -> tuple[Recipe, Scorer, Decision | None]:
    """Decide on a recipe, if it is neither named nor decided, and return what scores by it."""
    how: dict[str, Any] = {"loss": recipe.loss, "seed": recipe.seed, "strict": recipe.strict}
    if recipe.undecided and decision is None:
        decider = Decider(view, calibration.batches(), calibration.probes(), **how)
        decision = decider(recipe, limit)
        return decision.recipe, decider.scorer.only(decision.recipe.criterion), decision
    if recipe.undecided and decision is not None:
        recipe = decision.recipe
        how["loss"] = recipe.loss
    repairs = recipe.repair != "none"
    data = calibration.batches() if recipe.needs_scores or repairs else None
    criteria = [recipe.criterion] if recipe.needs_scores else []
    return recipe, Scorer(view, data, criteria, moments=repairs, **how), decision


class _Scores:
    """The scores of a run: those of the dense model are told once, and kept."""

    def __init__(
        self,
        scorer: Scorer,
        origin: HeadMask,
        progress: Progress,
        first: HeadScores | None,
        steps: Sequence[Step],
    ):
        self.steps = steps
        self.scorer, self.origin, self.progress, self.first = scorer, origin, progress, first
        self.errors, self.gains, self.joint = scorer.errors, scorer.gains, scorer.joint
        self.at_once = scorer.at_once
        self.again, self.looks_again = scorer.again, scorer.looks_again

    @property
    def moments(self) -> Moments:
        return self.scorer.moments

    @property
    def passed(self) -> list[HeadMask]:
        return [step.mask for step in self.steps]

    def __call__(self, mask: HeadMask) -> HeadScores:
        if mask == self.origin and self.first is not None:
            return self.first
        found = self.scorer(mask)
        if self.first is None:
            self.first = found
            self.progress.on_scores(found)
        self.progress.on_work("score")
        return found


def choose(
    model: nn.Module | HeadModel,
    batches: Iterable[Batch] | None,
    recipe: Recipe,
    *,
    scores: HeadScores | None = None,
    prompts: Iterable[Batch] | None = None,
    probes: Sequence[Probe] | None = None,
    grams: GramFn | None = None,
    on_decision: Callable[[Decision], None] = lambda decision: None,
    on_move: Callable[[Move], None] = lambda move: None,
    on_batch: Callable[[], None] | None = None,
) -> PruningPlan:
    """Choose which heads go, without evaluating anything.

    Args:
        model: the model.
        batches: calibration batches; None if `scores` are given or need none.
        recipe: what to do; its stopping rules other than `heads` are not looked at.
        scores: scores to use instead of scoring (for `one_shot`, and the budgets of `clusters`).
        prompts: batches that `clusters` compares heads on (random groups with random
            representatives on none); None: the calibration batches.
        probes: what orders are compared on if no method is named (`task.probes()`); None: the
            batches' own answers.
        grams: what `head_grams` found on them already.
        on_decision: called if no method was named.
        on_move: called after every move.
        on_batch: called after every batch of a scoring.

    Cost: the scorings of the strategy.

    Raises:
        BudgetError: the heads asked for cannot be had under the rules.
        HeadError: the scores are for another model, or as `prune`.
    """
    recipe = recipe.settled()
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    data = None if batches is None else list(batches)
    how = {"seed": recipe.seed, "strict": recipe.strict, "on_batch": on_batch}
    if recipe.undecided and scores is not None:
        recipe = replace(recipe, strategy="one_shot", criterion="file")  # not looked at
    if recipe.undecided:
        decider = Decider(view, data or (), probes, loss=recipe.loss, **how)
        decision = decider(recipe, droppable(view, view.mask, recipe.rules, recipe.heads))
        recipe = decision.recipe
        on_decision(decision)
        scorer = decider.scorer.only(recipe.criterion)
    else:
        criteria = [] if scores is not None else [recipe.criterion]
        scorer = Scorer(view, data, criteria, loss=recipe.loss, **how)

    if scores is not None and scores.counts != view.mask.counts:
        raise HeadError(
            f"the scores are of blocks with {list(scores.counts)} heads, the model has"
            f" {list(view.mask.counts)}; score this model"
        )
    score: ScoreFn = scorer if scores is None else lambda mask: scores
    mask = view.mask
    if recipe.strategy == "clusters":
        check_units(view, recipe.clustering)
    limit = droppable(view, mask, recipe.rules, recipe.heads if recipe.budget is None else 1.0)
    meter = meter_of(view, recipe, lambda: data or ())
    copies: Mapping[Head, Head] = {}
    grams = grams or _grams(view, data if prompts is None else prompts, recipe, on_batch)
    limits = _limits(view, score, grams, recipe, meter, start=mask, limits=(limit,))
    for move in moves_to(view, score, grams, recipe, start=mask, limits=limits):
        on_move(move)
        mask, copies = move.mask, move.copies
        if meter is not None and meter.met(mask):
            break
    if meter is not None:
        check_met(meter, mask)
    else:
        check_reached(mask, limit)
    plan = recipe.plan(mask, copies)
    if recipe.strict and recipe.repair != "none" and data is not None:
        fit(view, plan, scorer.moments, recipe.repair, batches=data, strict=True)  # or refuses
    return plan


def meter_of(
    view: HeadModel, recipe: Recipe, batches: Callable[[], Iterable[Batch]]
) -> BudgetMeters | None:
    """Return what measures the recipe's budgets; latency on the longest sample of `batches`."""
    if recipe.budget is None:
        return None
    budgets, inputs = Budget.parse_all(recipe.budget), None
    if any(budget.of == "latency" for budget in budgets):
        longest = max(batches(), key=lambda batch: batch["input_ids"].shape[1], default=None)
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
    """Refuse a budget that is not met with every head gone that the rules let go.

    Raises:
        BudgetError: says what is left.
    """
    for meter in meters.each:
        if meter.met(mask):
            continue
        raise BudgetError(
            f"budget {meter.budget} cannot be had: {meter.share(mask):.1%} is left with every head"
            " gone that the rules let go; ask for more, or change the rules"
        )


def _grams(
    view: HeadModel,
    data: Iterable[Batch] | None,
    recipe: Recipe,
    on_batch: Callable[[], None] | None = None,
) -> GramFn:
    def grams(scope: str) -> HeadGrams:
        how = recipe.clustering
        return head_grams(
            view,
            data or (),
            scope=scope,
            include_padding=how.include_padding,
            first_token=how.first_token,
            on_batch=on_batch,
        )

    return grams


def _limits(
    view: HeadModel,
    score: ScoreFn,
    grams: GramFn,
    recipe: Recipe,
    meter: BudgetMeters | None,
    *,
    start: HeadMask,
    limits: Sequence[int],
) -> Sequence[int]:
    """Return where moves end: of `search` under a budget, where greedy ones would meet it."""
    if meter is None or recipe.strategy != "search" or meter.met(start):
        return limits
    greedy = replace(recipe, strategy="greedy")
    for move in moves_to(view, score, grams, greedy, start=start, limits=limits):
        if meter.met(move.mask):
            return (len(move.mask.dropped),)
    return limits


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


def check_reached(mask: HeadMask, limit: int) -> None:
    """Refuse a mask that a strategy left short of its limit."""
    if len(mask.dropped) < limit:
        raise ScoreError(
            f"only {len(mask.dropped)} of {limit} heads could be dropped: the others have no score;"
            " score every head, or ask for fewer"
        )


def _judge(tasks: TaskSet, recipe: Recipe) -> tuple[str, Task]:
    if recipe.max_drop is None:
        return "test", tasks.test
    if tasks.selection is None:
        raise BudgetError(
            "max_drop stops on a selection set, and there is none; give one with --selection"
            " (the test set is for reporting only)"
        )
    return "selection", tasks.selection
