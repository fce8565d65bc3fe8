"""prune: score, choose, evaluate, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from deadhead.criteria import score_all
from deadhead.criteria.base import criterion_class, make_criterion
from deadhead.criteria.inputs import Batch
from deadhead.criteria.losses import loss_named
from deadhead.errors import BudgetError, DataError, HeadError, ScoreError
from deadhead.heads import HeadModel
from deadhead.similarity import Clustering, GramFn, HeadGrams, head_grams
from deadhead.strategies import Move, Rules, ScoreFn, StopRules, droppable, strategy_named
from deadhead.surgery import applied, masked
from deadhead.tasks import Task, TaskSet
from deadhead.trajectory import Step, Trajectory
from deadhead.types import COPYING, Head, HeadMask, HeadScores, PruningPlan, count_heads


@dataclass(frozen=True)
class Pruning:
    """The outcome of `prune`.

    Attributes:
        trajectory: the metric after every move, on `evaluated_on`.
        scores: scores of the model as it was given.
        plan: what to cut: the last step, or under `max_drop` the last that is good enough.
        evaluated_on: `test`, or `selection` if a stopping rule looked at the metric.
    """

    trajectory: Trajectory
    scores: HeadScores
    plan: PruningPlan
    evaluated_on: str = "test"


@dataclass(frozen=True)
class Recipe:
    """What `prune` does, as plain values.

    Attributes:
        criterion: name, perhaps with options: `gradient_norm:reduction=batch`.
        strategy: `one_shot` or `greedy`.
        heads: how many to drop: `int` counts, `float` in (0, 1] is a fraction of all.
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
    """

    criterion: str = "gradient_norm"
    strategy: str = "greedy"
    heads: int | float = 0.5
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

    def __post_init__(self) -> None:
        strategy_named(self.strategy)
        criterion_class(self.criterion.split(":")[0])
        if self.loss is not None:
            loss_named(self.loss)
        _ = self.rules  # checks itself
        StopRules(0, self.max_drop, self.patience)
        if self.evaluate_every < 1:
            raise BudgetError(f"evaluate_every is {self.evaluate_every}; give 1 or more moves")
        self.plan(HeadMask(()))  # checks itself
        if self.strategy == "clusters":
            self._check_clusters()
        elif self.action in COPYING:
            raise BudgetError(
                f"action {self.action!r} needs to know whose copy a head becomes, which strategy"
                f" {self.strategy!r} does not say; choose strategy clusters, or action remove, mask"
            )

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

    def plan(self, mask: HeadMask, copies: Mapping[Head, Head] | None = None) -> PruningPlan:
        """Return the plan that leaves a mask."""
        gqa = self.gqa
        if self.strategy == "clusters" and gqa == "whole_groups":
            gqa = self.rules.gqa  # single heads are grouped: their groups do not stay whole
        return PruningPlan(mask, copies or {}, self.action, gqa, self.slope)


@dataclass
class Progress:
    """Callbacks of a run; all optional.

    Attributes:
        on_step: called after every step.
        on_scores: called once, with the scores of the model as it was given.
        on_work: called with the name of what was just done: `score` or `evaluate`.
    """

    on_step: Callable[[Step], None] = lambda step: None
    on_scores: Callable[[HeadScores], None] = lambda scores: None
    on_work: Callable[[str], None] = lambda what: None


@dataclass(frozen=True)
class Done:
    """What an interrupted run had done: its first scores, and its steps with the dense one."""

    scores: HeadScores | None = None
    steps: tuple[Step, ...] = ()


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

    Cost: one scoring per move (greedy) or one in all (one_shot), and one evaluation per
    `evaluate_every` moves.

    Raises:
        BudgetError: the heads asked for cannot be had under the rules.
        UnknownNameError: a criterion, strategy, scope or policy that is not known.
        HeadError: the plan's action cannot be had for this model (folding, where it is not exact).

    Example:
        >>> run = prune(model, tasks, criterion="taylor", heads=0.5)  # doctest: +SKIP
        >>> remove_(model, run.plan)  # doctest: +SKIP
    """
    recipe = Recipe(**{**(recipe.__dict__ if recipe else {}), **changes})
    done, progress = done or Done(), progress or Progress()
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    origin = view.mask
    limit = droppable(view, origin, recipe.rules, recipe.heads)
    make_criterion(recipe.criterion, view)  # a wrong option is refused before any work
    most = limit if recipe.cut is None else droppable(view, origin, recipe.rules, recipe.cut)
    if most > limit:
        raise BudgetError(
            f"cut={recipe.cut!r} is more than the heads={recipe.heads!r} of the curve; ask for less"
        )
    stop = StopRules(limit, recipe.max_drop, recipe.patience)
    on, judge = _judge(tasks, recipe)

    def evaluate(mask: HeadMask, copies: Mapping[Head, Head]) -> float:
        with applied(view, recipe.plan(mask, copies)) if copies else masked(view, mask):
            value = judge.evaluate(view.model).value
        progress.on_work("evaluate")
        return value

    first = [done.scores] if done.scores is not None else []

    def score(mask: HeadMask) -> HeadScores:
        if mask == origin and first:
            return first[0]
        found = _score(view, tasks.calibration.batches(), recipe, mask)
        if not first:
            first.append(found)
            progress.on_scores(found)
        progress.on_work("score")
        return found

    steps = list(done.steps)
    if not steps:
        begun = time.perf_counter()
        steps = [Step(origin, (), evaluate(origin, {}), time.perf_counter() - begun)]
        progress.on_step(steps[0])
    dense, better = steps[0].metric, judge.greater_is_better
    data = tasks.calibration.batches() if prompts is None else prompts
    grams = _grams(view, data, recipe)
    moves = _moves(view, score, grams, recipe, start=steps[-1].mask, limits=(most, limit))
    copies: dict[HeadMask, Mapping[Head, Head]] = {}
    if not first:
        score(origin)
    begun = time.perf_counter()
    while not stop.met(steps[1:], dense, greater_is_better=better):
        move = next(moves, None)
        if move is None:
            _check_reached(steps[-1].mask, limit)
            break
        last = len(move.mask.dropped) >= limit
        due = last or len(move.mask.dropped) == most or len(steps) % recipe.evaluate_every == 0
        copies[move.mask] = move.copies
        metric = evaluate(move.mask, move.copies) if due else float("nan")
        seconds = time.perf_counter() - begun
        steps.append(Step(move.mask, move.dropped, metric, seconds, move.scores))
        progress.on_step(steps[-1])
        begun = time.perf_counter()
    trajectory = Trajectory(steps[0], tuple(steps[1:]), judge.metric, better)
    good = [
        s
        for s in steps[1:]
        if len(s.mask.dropped) <= most and stop.acceptable(s, dense, greater_is_better=better)
    ]
    mask = (good or steps[:1])[-1].mask
    if recipe.strategy == "clusters" and mask != origin and mask not in copies:  # a resumed run
        again = next(_moves(view, score, grams, recipe, start=origin, limits=(limit,)))
        if again.mask != mask:
            raise DataError(
                "the interrupted run had grouped the heads in another way: its prompts or its table"
                " of importance have changed; remove it and start again"
            )
        copies[again.mask] = again.copies
    return Pruning(trajectory, first[0], recipe.plan(mask, copies.get(mask)), on)


def choose(
    model: nn.Module | HeadModel,
    batches: Iterable[Batch] | None,
    recipe: Recipe,
    *,
    scores: HeadScores | None = None,
    prompts: Iterable[Batch] | None = None,
    grams: GramFn | None = None,
    on_move: Callable[[Move], None] = lambda move: None,
    on_batch: Callable[[], None] | None = None,
) -> PruningPlan:
    """Choose which heads go, without evaluating anything.

    Args:
        model: the model.
        batches: calibration batches; None if `scores` are given or need none.
        recipe: what to do; its stopping rules other than `heads` are not looked at.
        scores: scores to use instead of scoring (for `one_shot`, and the budgets of `clusters`).
        prompts: batches that `clusters` compares heads on; None: the calibration batches.
        grams: what `head_grams` found on them already.
        on_move: called after every move.
        on_batch: called after every batch of a scoring.

    Cost: the scorings of the strategy.

    Raises:
        BudgetError: the heads asked for cannot be had under the rules.
        HeadError: the scores are for another model.
    """
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    data = None if batches is None else list(batches)

    def score(mask: HeadMask) -> HeadScores:
        if scores is not None:
            if scores.counts != mask.counts:
                raise HeadError(
                    f"the scores are of blocks with {list(scores.counts)} heads, the model has"
                    f" {list(mask.counts)}; score this model"
                )
            return scores
        return _score(view, data, recipe, mask, on_batch)

    mask = view.mask
    limit = droppable(view, mask, recipe.rules, recipe.heads)
    copies: Mapping[Head, Head] = {}
    grams = grams or _grams(view, data if prompts is None else prompts, recipe, on_batch)
    for move in _moves(view, score, grams, recipe, start=mask, limits=(limit,)):
        on_move(move)
        mask, copies = move.mask, move.copies
    _check_reached(mask, limit)
    return recipe.plan(mask, copies)


def _score(
    view: HeadModel,
    data: Iterable[Batch] | None,
    recipe: Recipe,
    mask: HeadMask,
    on_batch: Callable[[], None] | None = None,
) -> HeadScores:
    name = recipe.criterion
    options = {"mask": mask, "loss": recipe.loss, "seed": recipe.seed, "on_batch": on_batch}
    return score_all(view, data, [name], **options)[name]


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


def _moves(
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


def _check_reached(mask: HeadMask, limit: int) -> None:
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
