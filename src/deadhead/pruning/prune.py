"""prune: score, choose, judge, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from deadhead.data.inputs import Batch
from deadhead.models.heads import HeadModel
from deadhead.pruning.loop import Completed, Progress, PruneLoop
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.result import Pruning

if TYPE_CHECKING:
    from deadhead.tasks import TaskSet


def prune(
    model: nn.Module | HeadModel,
    tasks: TaskSet,
    recipe: Recipe | None = None,
    *,
    prompts: Iterable[Batch] | None = None,
    completed: Completed | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Pruning:
    """Choose which heads are removed and measure what that costs. The model is only masked.

    Args:
        model: the model, as it was loaded.
        tasks: calibration data for scores, selection data for stopping rules, test data for the
            curve (`deadhead.open_task` makes them).
        recipe: what to do.
        prompts: batches that `clusters` compares heads on; None: the calibration data.
        completed: the completed part of an interrupted run.
        progress: callbacks.
        **changes: fields of the recipe to override: `prune(model, tasks, heads=.75)`.

    Cost: one scoring per move (greedy) or one in all (one_shot; of `clusters` for a budget by a
    criterion only), and about ten evaluations of the curve, or one per `evaluate_every` moves.

    Raises:
        BudgetError: the rules do not let so many heads be removed.
        UnknownNameError: a criterion, strategy, scope or policy that is not known.
        HeadError: the model cannot be changed as the plan's action says (folding, where it is not
            exact), or `unit="kv"` and key/value heads with unequal numbers of query heads.

    Example:
        >>> run = prune(model, tasks, criterion="taylor", heads=0.5)  # doctest: +SKIP
        >>> remove_(model, run.plan)  # doctest: +SKIP
    """
    recipe = Recipe(**{**(recipe.__dict__ if recipe else {}), **changes})
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    progress = progress or Progress()
    loop = PruneLoop(view, tasks, recipe, prompts=prompts, completed=completed, progress=progress)
    for step in loop:
        progress.on_step(step)
    return loop.outcome()
