"""distill_: train the pruned model against the dense one."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterable

import torch
from torch import nn

from deadhead.data.inputs import Batch
from deadhead.errors import HeadError, MissingDependencyError, ScoreError
from deadhead.models.heads import HeadModel
from deadhead.options.settings import Distillation
from deadhead.repair.distill.batches import HasBatches, training_batches
from deadhead.repair.distill.judge import Best, Judge, Selection, judge_of, judge_of_distance
from deadhead.repair.distill.loss import Distance, output_paths
from deadhead.repair.distill.pace import Pace
from deadhead.repair.distill.report import DistillPoint, DistillReport
from deadhead.repair.distill.state import same_surroundings
from deadhead.repair.distill.weights import Weights

JUDGE_EVERY = 8  # without a selection set, every eighth batch judges and does not train

SELECTED_EVERY = 8  # batches, without a selection set


def distill_(
    model: nn.Module | HeadModel,
    dense: nn.Module | HeadModel,
    data: HasBatches | Iterable[Batch],
    *,
    selection: Selection | None = None,
    settings: Distillation | None = None,
    on_step: Callable[[int, int], None] = lambda step, planned: None,
) -> DistillReport:
    """Train a cut model, in place, to do what the dense one does; never for the worse.

    The dense model's logits and the outputs of its attention blocks are the targets, so that text
    is enough: labels are not looked at. The weights that the selection set likes best are kept, and
    those that the model came with if it likes none better. Everything else comes back as it was:
    modes, flags, hooks, dtypes, devices, random state; the dense model is untouched, and nothing is
    written to disk but in a temporary folder that goes. Interrupted, the model has the best weights
    so far. Half-precision models are trained in float32. Heads that a mask has zeroed stay zero.
    Token embeddings, and what is tied to them, are not trained, nor are frozen weights.

    Not covered: models spread over several devices; masked language models see text without masks.

    Args:
        model: the cut model, best repaired by `least_squares` first.
        dense: the model that it was cut from.
        data: padded batches, or a task.
        selection: what says how good a model is: a task, or a function of which more is better;
            None holds an eighth of the batches out and takes the distance from the dense model.
        settings: how to train.
        on_step: called after every step with (steps done, steps planned).

    Cost: per step, a forward pass of the dense model and a forward and a backward pass of the cut
        one, each on `batch_size` samples; and `evaluations + 1` evaluations, one more for LoRA and
        half precision. Memory: Adam's two numbers per trained weight, and two copies of ours.

    Raises:
        MissingDependencyError: accelerate, or for LoRA peft, is not installed.
        DataError: there is no text.
        HeadError: the two models do not fit, or there is nothing to train.
        ScoreError: the loss is not finite; the model then has the best weights so far.

    Example:
        >>> distill_(cut, dense, tasks.calibration, selection=tasks.selection)  # doctest: +SKIP
    """
    settings = settings or Distillation()
    check_packages(settings)
    from deadhead.repair.distill.trainer import EvaluationCallback, Student, train_

    view, whole = (m if isinstance(m, HeadModel) else HeadModel(m) for m in (model, dense))
    _check_models(view, whole)
    weights = Weights(view, settings.rank)
    distance = Distance(view.model, whole.model, output_paths(view), output_paths(whole), settings)
    batches, judge = _batches_and_judge(data, selection, distance, settings)
    total = settings.max_steps or settings.epochs * len(batches)
    pace = Pace(total, settings.seconds, settings.evaluations)
    student = Student(distance, dropout=settings.dropout)
    points: list[DistillPoint] = []
    with same_surroundings(settings.seed), whole.at_rest(), torch.enable_grad():
        best = Best(judge, judge(view.model))
        pace.time_looks(pace.elapsed, after=int(weights.approximate))
        with weights.training(best) as trained, tempfile.TemporaryDirectory() as folder:

            def look() -> int:
                value = judge(view.model)
                best.consider(pace.step, value, trained)
                points.append(DistillPoint(pace.step, value, *student.take_means()))
                return best.in_vain

            looks = pace.looks - int(weights.approximate)
            callback = EvaluationCallback(
                pace, look, on_step, looks=looks, patience=settings.patience
            )
            if pace.planned:
                train_(student, batches, callback, settings, folder)
            else:
                callback.stopped = "seconds"
        if best.weights is not None and weights.approximate:
            _judge_again(view, weights, best)
    return DistillReport(
        metric=judge.metric,
        greater_is_better=judge.greater_is_better,
        before=best.before,
        after=best.value,
        best_step=best.step,
        steps=pace.step,
        planned=total,
        stopped=callback.stopped,
        trained=sum(p.numel() for p in trained),
        seconds=pace.elapsed,
        points=tuple(points),
    )


def _batches_and_judge(
    data: HasBatches | Iterable[Batch],
    selection: Selection | None,
    distance: Distance,
    settings: Distillation,
) -> tuple[list[Batch], Judge]:
    """Return what to train on, and what judges: without a selection set, part of the batches."""
    batches = training_batches(data, settings.batch_size)
    if selection is not None:
        return batches, judge_of(selection)
    judge = judge_of_distance(distance, batches[::SELECTED_EVERY])
    return [b for n, b in enumerate(batches) if n % SELECTED_EVERY] or batches, judge


def _judge_again(view: HeadModel, weights: Weights, best: Best) -> None:
    """Judge the best weights as they were merged or rounded; keep none that are not better."""
    best.value = best.judge(view.model)
    if not best.judge.better(best.value, best.before):
        weights.undo_()
        best.value, best.step = best.before, 0


def check_packages(settings: Distillation) -> None:
    """Refuse to begin without the packages that training needs.

    Raises:
        MissingDependencyError: one of them is not installed.
    """
    for package in ("accelerate", *(["peft"] if settings.rank else [])):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f'distill needs {package}, which is not installed; pip install "deadhead[train]"'
            )


def _check_models(view: HeadModel, whole: HeadModel) -> None:
    if torch.is_inference_mode_enabled():
        raise ScoreError("torch.inference_mode() lets no gradient through; distill outside of it")
    if view.model is whole.model:
        raise HeadError(
            "the model to distill is the dense one itself; cut a copy (copy.deepcopy(model)) and"
            " give both"
        )
    if view.mask.counts != whole.mask.counts:
        raise HeadError(
            f"the model had {list(view.mask.counts)} heads once, the dense one has"
            f" {list(whole.mask.counts)}; give the dense model that it was cut from"
        )
