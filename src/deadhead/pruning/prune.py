"""prune: the front door, from a model and data to a cut and repaired model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec

from torch import nn

from deadhead.data.inputs import Batch
from deadhead.models.heads import HeadModel
from deadhead.pruning.loop import PruneLoop
from deadhead.pruning.options import recipe_of, with_options
from deadhead.pruning.progress import Completed, Progress
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.result import Pruning
from deadhead.surgery.plans import as_view

P = ParamSpec("P")


def _with(options: Callable[P, Recipe]):
    def prune(
        model: nn.Module | HeadModel,
        data: Any,
        recipe: Recipe | None = None,
        tokenizer: Any = None,
        prompts: Iterable[Batch] | None = None,
        completed: Completed | None = None,
        progress: Progress | None = None,
        *args: P.args,
        **given: P.kwargs,
    ) -> Pruning:
        """Choose which heads to remove, measure what that costs, and cut and repair a copy.

        `model` stays as it is. The result has the cut model (`result.model`), the plan, and the
        curve of the metric; `result.apply_(model)` cuts `model` itself.

        Without labeled test data, the result tells the divergence from the dense model on a part
        of the data that was held out.

        Args:
            model: the model, as it was loaded.
            data: texts, a `datasets.Dataset` or `DatasetDict`, a DataLoader or other iterable of
                batches, a file name, a task, or the set of tasks that `open_task` makes.
            recipe: options that the keyword arguments change.
            tokenizer: the model's, where `data` are texts.
            prompts: batches that `clusters` compares heads on; None: the calibration data.
            completed: the completed part of an interrupted run.
            progress: callbacks.
            *args: nothing.
            **given: fields of `Recipe`: `heads=0.5`, `36` or `"50%"`, `repair="distill"`, ...

        Cost: by default, 1.3 to 3.2 forward and backward passes over the calibration data, and
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
        view = as_view(model)
        from deadhead.tasks import as_tasks

        tasks = as_tasks(data, view.model, tokenizer, seed=made.seed)
        progress = progress or Progress()
        loop = PruneLoop(view, tasks, made, prompts=prompts, completed=completed, progress=progress)
        for step in loop:
            progress.on_step(step)
        return loop.outcome()

    return with_options(options, prune)


prune = _with(Recipe)
