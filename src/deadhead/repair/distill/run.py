"""distill_: train the pruned model against the dense one."""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from deadhead.data.batches import LABELS, Batch, aligned, valid_tokens, without_empty
from deadhead.display import Brief
from deadhead.errors import DataError, HeadError, MissingDependencyError, ScoreError
from deadhead.measure import Timer
from deadhead.models.heads import HeadModel
from deadhead.options.settings import Distillation
from deadhead.repair.distill.loss import Distance, output_paths
from deadhead.repair.distill.weights import (
    Best,
    Judge,
    Selection,
    Weights,
    judge_of,
    same_surroundings,
)
from deadhead.scoring.own_text import LENGTH, ROWS, OwnText
from deadhead.scoring.passes import PassSettings


@dataclass(frozen=True)
class DistillPoint:
    """One look at the model.

    Attributes:
        step: optimizer steps done.
        value: the selection metric.
        divergence: mean over the steps since the last look of the divergence from the dense logits,
            in nats (half the squared error of a regression, the relative error without a head).
        error: likewise, of the attention blocks' outputs, relative to their variance.
    """

    step: int
    value: float
    divergence: float
    error: float


@dataclass(frozen=True, repr=False)
class DistillReport(Brief):
    """What a distillation did.

    Attributes:
        metric, greater_is_better: of `before` and `after`; `distance` without a selection set.
        before, after: value of the model as it was given, and as it is left; not worse.
        best_step: step whose weights were kept; 0 are those that it came with.
        steps, planned: optimizer steps done, and asked for.
        stopped: `done`, `seconds` or `patience`.
        trained: number of weights that were trained.
        seconds: wall clock.
        points: every look, in order.
    """

    metric: str
    greater_is_better: bool
    before: float
    after: float
    best_step: int
    steps: int
    planned: int
    stopped: str
    trained: int
    seconds: float
    points: tuple[DistillPoint, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**self.__dict__, "points": [dict(p.__dict__) for p in self.points]}


LOOKING = 1 / 3  # of the time at most


@dataclass
class Pace:
    """How far a run is: by steps or, if that ends sooner, by the clock.

    Attributes:
        total: steps asked for.
        seconds: when to end; None: never.
        looks: evaluations to come.
        step: steps done.
        stepping: seconds that they took.
        looking: seconds that an evaluation takes.
    """

    total: int
    seconds: float | None
    looks: int
    step: int = 0
    stepping: float = 0.0
    looking: float = 0.0
    timer: Timer = field(default_factory=Timer)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.timer.seconds

    @property
    def left(self) -> float:
        """Seconds left for steps."""
        if self.seconds is None:
            return math.inf
        return self.seconds - self.elapsed - self.looks * self.looking

    @property
    def planned(self) -> int:
        """Steps that fit: all, or as many as there is time for, at the rate so far."""
        left = self.left
        if left == math.inf or not self.step:
            return self.total if left > 0 else 0
        more = left / (self.stepping / self.step)
        return min(self.total, self.step + max(0, math.floor(more)))

    @property
    def share(self) -> float:
        """Fraction done, in [0, 1]."""
        return self.step / max(1, self.planned)

    def time_looks(self, seconds: float, after: int) -> None:
        """Say what an evaluation takes, before the first step; fewer are made if that is much.

        `after` more are to be made after the last step, whatever they take.
        """
        self.looking = seconds
        if self.seconds is not None:
            most = math.floor(self.seconds * LOOKING / max(seconds, 1e-9)) - after
            self.looks = max(1, min(self.looks, most))
        self.looks += after


def training_batches(data: Any, most: int) -> list[Batch]:
    """Split a task's batches evenly into ones of at most `most` samples of like length.

    Shape: every tensor of one row per sample is split, and every one of (batch, tokens) loses the
    padding that is left over. Labels are left out.
    """
    batches = data.batches() if hasattr(data, "batches") else data
    pieces = [piece for batch in batches for piece in _split(batch, most)]
    if not pieces:
        raise DataError("there is no text to distill on; give batches with at least one sample")
    return pieces


def _split(batch: Batch, most: int) -> Iterator[Batch]:
    batch = aligned(without_empty({k: v for k, v in batch.items() if k not in LABELS}))
    shape, lengths = valid_tokens(batch).shape, valid_tokens(batch).sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    for rows in order.tensor_split(math.ceil(len(order) / most)) if len(order) else ():
        width = int(lengths[rows].max().clamp(min=1))
        piece = {}
        for name, tensor in batch.items():
            of_samples = tensor.dim() > 0 and len(tensor) == shape[0]
            taken = tensor[rows.to(tensor.device)] if of_samples else tensor
            piece[name] = taken[:, :width] if tensor.shape[:2] == shape else taken
        yield piece


SELECTED_EVERY = 8  # batches, without a selection set


def distill_(
    model: nn.Module | HeadModel,
    dense: nn.Module | HeadModel,
    data: Any,
    *,
    selection: Selection | None = None,
    settings: Distillation | None = None,
    on_step: Callable[[int, int], None] = lambda step, planned: None,
) -> DistillReport:
    """Train a cut model, in place, to do what the dense one does; never for the worse.

    The dense model's logits and the outputs of its attention blocks are the targets, so that text
    is enough: labels are not looked at. A part of the text is of the dense model's own making, so
    that the cut one stays good at text that the data do not have (`Distillation.own_text`). The
    weights that the selection set likes best are kept, and those that the model came with if it
    likes none better. Everything else comes back as it was: modes, flags, hooks, dtypes, devices,
    random state; the dense model is untouched, and nothing is written to disk but in a temporary
    folder that goes. Interrupted, the model has the best weights so far. Half-precision models are
    trained in float32. Heads that a mask has zeroed stay zero.
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
    one, each on `batch_size` samples; and `evaluations + 1` evaluations, one more for LoRA and half
    precision. Memory: Adam's two numbers per trained weight, and two copies of ours.

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
    timer = Timer()
    batches, judge = _batches_and_judge(data, selection, distance, settings, whole)
    total = settings.max_steps or settings.epochs * len(batches)
    pace = Pace(total, settings.seconds, settings.evaluations, timer=timer)
    student = Student(distance, dropout=settings.dropout)
    points: list[DistillPoint] = []
    with same_surroundings(settings.seed), whole.at_rest(), torch.enable_grad():
        look_timer = Timer()
        best = Best(judge, judge(view.model))
        pace.time_looks(look_timer.seconds, after=int(weights.approximate))
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
    data: Any,
    selection: Selection | None,
    distance: Distance,
    settings: Distillation,
    whole: HeadModel,
) -> tuple[list[Batch], Judge]:
    """Return what to train on, and what judges: without a selection set, part of the batches."""
    batches = training_batches(data, settings.batch_size)
    batches += _own_batches(whole, batches, settings)
    if selection is not None:
        return batches, judge_of(selection)
    held_out = batches[::SELECTED_EVERY]

    def measure(model: nn.Module) -> float:
        return sum(float(distance.weighted(*distance(b))) for b in held_out) / len(held_out)

    rest = [b for n, b in enumerate(batches) if n % SELECTED_EVERY] or batches
    return rest, Judge("distance", False, measure)


def _own_batches(whole: HeadModel, batches: list[Batch], settings: Distillation) -> list[Batch]:
    """Return text of the dense model's own making: `own_text` of all tokens at most."""
    tokens = sum(int(valid_tokens(batch).sum()) for batch in batches)
    rows = math.ceil(tokens * settings.own_text / (1 - settings.own_text) / LENGTH)
    if not rows:
        return []
    texts = OwnText(whole, batches, PassSettings(settings.seed), rows=min(rows, ROWS[1])).batches
    return training_batches(texts, settings.batch_size) if texts else []


def _judge_again(view: HeadModel, weights: Weights, best: Best) -> None:
    """Judge the best weights as they were merged or rounded; keep none that are not better."""
    best.value = best.judge(view.model)
    if not best.judge.better(best.value, best.before):
        weights.undo_()
        best.value, best.step = best.before, 0


def check_packages(settings: Distillation) -> None:
    """Refuse to begin without the packages that training needs."""
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
