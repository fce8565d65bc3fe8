"""choose: from a recipe and calibration data to a plan, without judging anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec

from torch import nn

from deadhead.data.given import as_batches
from deadhead.data.inputs import Batch
from deadhead.errors import HeadError
from deadhead.losses.divergence import Probe
from deadhead.models.heads import HeadModel
from deadhead.pruning.auto import AutoChoice, AutoSelector
from deadhead.pruning.moves import context_of, limits_of, moves_within, prompt_grams
from deadhead.pruning.options import recipe_of, with_options
from deadhead.pruning.recipe import Recipe
from deadhead.repair import fit
from deadhead.scoring import Scorer
from deadhead.strategies import Move
from deadhead.surgery.plans import as_view
from deadhead.types import HeadScores, PruningPlan

if TYPE_CHECKING:
    from deadhead.similarity import GramFn

P = ParamSpec("P")


def _with(options: Callable[P, Recipe]):
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


choose = _with(Recipe)


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

    Args:
        view: the model.
        data: calibration batches; None if `scores` are given or need none.
        recipe: what to do.
        scores: as of `choose`.
        prompts: as of `choose`.
        probes: what rankings are compared on if no method is named (`task.probes()`); None: the
            batches' own answers.
        grams: what `head_grams` found on the prompts already.
        on_choice: called with what `auto` picked.
        on_move: called after every move.
        on_batch: called after every batch of a scoring.

    Raises: as `choose`.
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
    how = {"seed": recipe.seed, "strict": recipe.strict, "on_batch": on_batch}
    if recipe.undecided:
        selector = AutoSelector(view, data or (), probes, loss=recipe.loss, **how)
        choice = selector(recipe, limits.curve)
        recipe = choice.recipe
        on_choice(choice)
        scorer = selector.scorers.of(recipe.criterion)
    else:
        criterion = None if scores is not None else recipe.criterion
        scorer = Scorer(view, data, criterion, loss=recipe.loss, **how)
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
        if limits.meter is not None and limits.meter.met(mask):
            break
    limits.check(mask)
    return _checked(view, recipe.plan(mask, copies), scorer, data, recipe)


def _checked(
    view: HeadModel,
    plan: PruningPlan,
    scorer: Scorer,
    data: Sequence[Batch] | None,
    recipe: Recipe,
) -> PruningPlan:
    """Return a plan; if `strict`, refuse it where its repair would have too little data."""
    if recipe.strict and plan.repair != "none" and data is not None:
        fit(view, plan, scorer.moments, batches=data, strict=True)
    return plan
