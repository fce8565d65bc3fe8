"""The front door: choose heads, prune a model, and judge a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec

from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.given import as_batches
from deadhead.errors import DataError, HeadError
from deadhead.losses.losses import Probe
from deadhead.models.heads import HeadModel
from deadhead.options.fields import check_arguments
from deadhead.pruning.auto import AutoChoice, AutoSelector
from deadhead.pruning.judges import judge_for
from deadhead.pruning.loop import PruneLoop
from deadhead.pruning.moves import context_of, limits_of, moves_within, prompt_grams
from deadhead.pruning.recipe import Recipe, recipe_of, with_options
from deadhead.pruning.result import Pruning
from deadhead.pruning.trajectory import Completed, Progress
from deadhead.repair import REPAIRS, applied_repaired, fit
from deadhead.scoring import Scorer
from deadhead.scoring.passes import PassSettings
from deadhead.strategies import Move
from deadhead.surgery.plans import PlanLike, as_mask, as_view
from deadhead.types import HeadScores, PruningPlan

if TYPE_CHECKING:
    from deadhead.similarity import GramFn
    from deadhead.tasks import Evaluation
    from deadhead.tasks.metrics import ComputeMetrics

P = ParamSpec("P")


def _loop(
    model: nn.Module | HeadModel,
    data: Any,
    recipe: Recipe,
    tokenizer: Any,
    judging: dict[str, Any],
    prompts: Iterable[Batch] | None,
    completed: Completed | None,
    progress: Progress | None,
) -> PruneLoop:
    from deadhead.tasks import as_tasks

    view = as_view(model)
    view.check_loaded("prune a model")
    tasks = as_tasks(data, view.model, tokenizer, seed=recipe.seed, **judging)
    return PruneLoop(view, tasks, recipe, prompts=prompts, completed=completed, progress=progress)


def _prune_with(options: Callable[P, Recipe]):
    def prune(
        model: nn.Module | HeadModel,
        data: Any,
        recipe: Recipe | None = None,
        tokenizer: Any = None,
        prompts: Iterable[Batch] | None = None,
        completed: Completed | None = None,
        progress: Progress | None = None,
        compute_metrics: ComputeMetrics | None = None,
        metric: str | None = None,
        greater_is_better: bool | None = None,
        *args: P.args,
        **given: P.kwargs,
    ) -> Pruning:
        """Choose which heads to remove, measure what that costs, and cut and repair a copy.

        `model` stays as it is. The result has the cut model (`result.model`), the plan, and the
        curve of the metric; `result.apply_(model)` cuts `model` itself. Without labeled test data,
        the result tells the divergence from the dense model on a part of the data that was held
        out.

        Args:
            model: the model, as it was loaded.
            data: texts, a `datasets.Dataset` or `DatasetDict`, a DataLoader or other iterable of
                batches, a file name, a task, or the set of tasks that `open_task` makes.
            recipe: options that the keyword arguments change.
            tokenizer: the model's, where `data` are texts.
            prompts: batches that `clusters` compares heads on; None: the calibration data.
            completed: the completed part of an interrupted run.
            progress: callbacks.
            compute_metrics: judge by a function of your own, as the Trainer takes it.
            metric: which of its numbers, or of the task's, judges.
            greater_is_better: whether more of it is better; see `open_task`.
            *args: nothing.
            **given: fields of `Recipe`: `heads=0.5`, `36` or `"50%"`, `repair="distill"`, ...

        Cost: by default, 2 to 4 forward and backward passes over the calibration data, and
        about ten evaluations of the test set. A named criterion takes a pass per move (`greedy`)
        or one in all (`one_shot`).

        Example:
            >>> import deadhead
            >>> loaded = deadhead.load_model("bundled:encoder")
            >>> from deadhead.bundled import sentiment
            >>> texts = [row["sentence"] for row in sentiment("train", 64)]
            >>> result = deadhead.prune(loaded.model, texts, tokenizer=loaded.tokenizer, heads=0.25)
            >>> result.plan.mask.n_kept
            18
            >>> result.model.save_pretrained("small")  # doctest: +SKIP
        """
        made = recipe_of(recipe, args, given)
        judging: dict[str, Any] = {"metric": metric, "greater_is_better": greater_is_better}
        judging["compute_metrics"] = compute_metrics
        loop = _loop(model, data, made, tokenizer, judging, prompts, completed, progress)
        for step in loop:
            loop.progress.on_step(step)
        return loop.outcome()

    return with_options(options, prune)


prune = _prune_with(Recipe)


def _choose_with(options: Callable[P, Recipe]):
    def choose(
        model: nn.Module | HeadModel,
        data: Any,
        recipe: Recipe | None = None,
        tokenizer: Any = None,
        scores: HeadScores | None = None,
        prompts: Iterable[Batch] | None = None,
        *args: P.args,
        **given: P.kwargs,
    ) -> PruningPlan:
        """Choose which heads to remove, without evaluating or changing anything.

        Args:
            model: the model.
            data: calibration data, as of `prune`; None if `scores` are given or need none.
            recipe: options that the keyword arguments change, as of `prune`; stopping rules
                (`max_drop`, `patience`) need `prune`.
            tokenizer: the model's, where `data` are texts.
            scores: scores to use instead of scoring (for `one_shot`, and the budgets of
                `clusters`).
            prompts: batches that `clusters` compares heads on (random groups with random
                representatives on none); None: the calibration data.
            *args: nothing.
            **given: options by name, each a field of `Recipe`.

        Cost: the scorings of the strategy.

        Raises:
            BudgetError: the rules do not let so many heads be removed.
            HeadError: the scores are for another model, or as `prune`.

        Example:
            >>> import deadhead
            >>> loaded = deadhead.load_model("bundled:encoder")
            >>> plan = deadhead.choose(loaded.model, None, criterion="magnitude", heads=2)
            >>> deadhead.remove_(loaded.model, plan).config.quantization_config.quant_method
            'deadhead'
        """
        made, view = recipe_of(recipe, args, given), as_view(model)
        task = getattr(data, "calibration", data)
        probes = task.probes() if hasattr(task, "probes") else None
        batches = None if data is None else as_batches(task, view.model, tokenizer, seed=made.seed)
        return choose_plan(view, batches, made, scores=scores, prompts=prompts, probes=probes)

    return with_options(options, choose)


choose = _choose_with(Recipe)


def choose_plan(
    view: HeadModel,
    data: Sequence[Batch] | None,
    recipe: Recipe,
    *,
    scores: HeadScores | None = None,
    prompts: Iterable[Batch] | None = None,
    probes: Sequence[Probe] | None = None,
    grams: GramFn | None = None,
    on_choice: Callable[[AutoChoice], None] = lambda choice: None,
    on_move: Callable[[Move], None] = lambda move: None,
    on_batch: Callable[[], None] | None = None,
) -> PruningPlan:
    """Choose as `choose` does, from batches.

    `probes` are what rankings are compared on if no method is named (`task.probes()`; None: the
    batches' own answers); `grams` is what `head_grams` found on the prompts already. `on_choice`
    is called with what `auto` picked, `on_move` after every move, and `on_batch` after every batch
    of a scoring.
    """
    recipe = recipe.settled()
    if scores is not None and scores.counts != view.mask.counts:
        raise HeadError(
            f"the scores are of blocks with {list(scores.counts)} heads, the model has"
            f" {list(view.mask.counts)}; score this model"
        )
    if recipe.undecided and scores is not None:
        recipe = replace(recipe, strategy="one_shot", criterion="file")  # the scores are given
    limits = limits_of(view, recipe, lambda: data)
    limits = replace(limits, curve=limits.plan)
    settings = PassSettings(recipe.seed, recipe.strict, on_batch=on_batch)
    if recipe.undecided:
        selector = AutoSelector(view, data or (), probes, loss=recipe.loss, settings=settings)
        choice = selector(recipe, limits.curve)
        recipe = choice.recipe
        on_choice(choice)
        scorer = selector.scorers.of(recipe.criterion)
    else:
        criterion = None if scores is not None else recipe.spec
        scorer = Scorer(view, data, criterion, loss=recipe.loss, settings=settings)
    context = context_of(
        view,
        recipe,
        scorer if scores is None else lambda mask: scores,
        scorer=scorer,
        grams=grams or prompt_grams(view, data if prompts is None else prompts, recipe, on_batch),
    )
    mask, copies = view.mask, {}
    for move in moves_within(context, recipe.strategy, limits):
        on_move(move)
        mask, copies = move.mask, move.copies
        if limits.met(mask):
            break
    limits.check(mask)
    plan = recipe.plan(mask, copies)
    if recipe.strict and plan.repair != "none" and data is not None:
        fit(view, plan, scorer.moments, batches=data, strict=True)  # refuses too little data
    return plan


@check_arguments
def evaluate(
    model: nn.Module | HeadModel,
    data: Any,
    plan: PlanLike | None = None,
    *,
    tokenizer: Any = None,
    test_size: int | None = None,
    seed: int = 0,
    compute_metrics: ComputeMetrics | None = None,
    metric: str | None = None,
    greater_is_better: bool | None = None,
) -> Evaluation:
    """Judge a model as it is, or as a plan would leave it; the model stays as it is.

    Args:
        model: the model.
        data: a task; or what a task is made of, as of `prune`, of which the test set judges.
            Where nothing says what is right, the plan's model is judged by the divergence from the
            dense one, in nats, on the data that are held out.
        plan: a plan, a mask, or a list of heads to remove. The plan's repair is fitted on the
            calibration part of the data.
        tokenizer: the model's, where `data` are texts.
        test_size: how many examples of the test set to judge on; None: all.
        seed: of the division of the data.
        compute_metrics: judge by a function of your own, as the Trainer takes it.
        metric: which of its numbers, or of the task's, judges.
        greater_is_better: whether more of it is better; see `open_task`.

    Cost: one evaluation of the test set; with a repair, its passes and algebra too.

    Raises:
        DataError: there is nothing to judge by, or no data to fit a repair on.
        HeadError, GroupError: the plan cannot be carried out, or trains (`distill`).

    Example:
        >>> import deadhead
        >>> loaded = deadhead.load_model("bundled:encoder")
        >>> from deadhead.bundled import sentiment
        >>> rows = sentiment("test", 64)
        >>> given = {"tokenizer": loaded.tokenizer, "test_size": 8}
        >>> deadhead.evaluate(loaded.model, rows, ["0.1", (1, 2)], **given).metric
        'accuracy'
    """
    from deadhead.tasks import as_tasks

    view = as_view(model)
    tasks = as_tasks(
        data,
        view.model,
        tokenizer,
        test_size=test_size,
        seed=seed,
        compute_metrics=compute_metrics,
        metric=metric,
        greater_is_better=greater_is_better,
    )
    alone = tasks.test is None and tasks.held_out is None  # one task
    judged = replace(tasks, test=tasks.calibration) if alone else tasks
    judge = judge_for(view, judged, Recipe())
    if plan is None:
        if judged.test is None:
            raise DataError(
                "nothing in the data says what is right, so a model can only be compared with the"
                " dense one: give labels, or a plan"
            )
        return judge.dense()
    fits = {}
    if not isinstance(plan, PruningPlan):
        plan = PruningPlan(as_mask(view, plan), action="mask")
    if plan.repair != "none" and alone:
        raise DataError(
            f"the repair {plan.repair!r} would be fitted on the data that judge; give data to"
            " divide (rows, a file, tasks of open_task), or judge what deadhead.repair_ returned"
        )
    if plan.repair != "none":
        batches = tasks.calibration.batches()
        measured = REPAIRS[plan.repair].needs_moments
        moments = Scorer(view, batches, None).moments if measured else None
        fits = fit(view, plan, moments, batches=batches)
    return judge.changed(lambda: applied_repaired(view, plan, fits))
