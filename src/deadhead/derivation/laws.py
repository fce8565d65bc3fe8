"""The laws that a record has to obey, on a model that can be run."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from deadhead.derivation.exercises import Exercise, perform
from deadhead.models.architectures import ARCHITECTURES, Records, register_architecture
from deadhead.models.blocks import Block
from deadhead.models.heads import HeadModel
from deadhead.surgery.mask import masked
from deadhead.surgery.remove import remove_
from deadhead.types import HeadMask, PruningPlan

TOLERANCE = 1e-10
HUGE = 1e6
SKIPPED = ("past_key_values", "attentions", "cross_attentions", "encoder_attentions")


@contextmanager
def known(records: Records) -> Iterator[None]:
    """Register records until the context is left."""
    with ARCHITECTURES.restored():
        register_architecture(*records)
        yield


def run_exercises(
    model: PreTrainedModel, exercises: Sequence[Exercise], *, gradients: bool = False
) -> list[Tensor]:
    """Run exercises and return every floating-point tensor of their outputs."""
    found: list[Tensor] = []
    for exercise in exercises:
        with torch.set_grad_enabled(gradients), exact(model):
            found += _tensors(perform(model, exercise))
    return found


def exact(model: nn.Module) -> AbstractContextManager[Any]:
    """Let a float64 model compute in float64 throughout; leave others as they are."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return _Promoted() if kinds == {torch.float64} else nullcontext()


class _Promoted(TorchFunctionMode):
    """Compute in float64 what a model casts to float32, so that laws hold to rounding."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.float:
            func = Tensor.double
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func is Tensor.to:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        return func(*args, **kwargs)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return [t for k, v in value.items() if k not in SKIPPED for t in _tensors(v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _tensors(v)]
    return []


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest difference relative to the largest value; inf if shapes differ.

    Values from `HUGE` on stand for minus infinity in a mask: they do not set the scale, and each
    has to be the same relative to itself.
    """
    if [t.shape for t in one] != [t.shape for t in other]:
        return float("inf")
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        if a.numel() == 0:
            continue
        same = (a == b) | (a.isnan() & b.isnan())
        gap = (a - b).abs()
        usual = a.abs() < HUGE
        scale = a[usual].abs().max().clamp(min=1) if bool(usual.any()) else 1.0
        off = torch.where(usual, gap / scale, gap / a.abs())
        value = float(torch.where(same, 0, off).max())
        worst = max(worst, float("inf") if value != value else value)
    return worst


def draw_masks(view: HeadModel, count: int, seed: int = 0) -> list[HeadMask]:
    """Draw masks that remove some heads of every block and leave its key/value groups even.

    Every other mask removes whole groups where there are several; the rest thins each group.
    """
    draw = random.Random(seed)
    return [
        HeadMask.of(_row(draw, block, whole=number % 2 == 0) for block in view.blocks)
        for number in range(count)
    ]


def _row(draw: random.Random, block: Block, *, whole: bool) -> list[bool]:
    size, groups = block.shape.group_size, block.n_kv_heads
    if size == 1 or (whole and groups > 1):
        kept = draw.sample(range(groups), draw.randint(1, max(1, groups - 1)))
        return [head // size in kept for head in range(block.n_heads)]
    stay = draw.randint(1, size - 1)
    chosen = [draw.sample(range(size), stay) for _ in range(groups)]
    return [head % size in chosen[head // size] for head in range(block.n_heads)]


def mask_equals_removal(
    model: PreTrainedModel, exercises: Sequence[Exercise], masks: Sequence[HeadMask]
) -> float:
    """Return the largest difference between masking heads and removing them.

    Raises:
        ArithmeticError: masking changed nothing, so the law proves nothing.
    """
    worst = 0.0
    dense = run_exercises(model, exercises)
    for mask in masks:
        with masked(model, mask):
            expected = run_exercises(model, exercises)
        if difference(dense, expected) == 0.0:
            raise ArithmeticError("masking heads changes no output of the model")
        worst = max(worst, difference(expected, run_exercises(_without(model, mask), exercises)))
    return worst


def wrong_cut_is_caught(
    model: PreTrainedModel, exercises: Sequence[Exercise], mask: HeadMask
) -> bool:
    """Whether removing other heads than were masked, in every block, changes the outputs."""
    with masked(model, mask):
        expected = run_exercises(model, exercises)
    mirrored = HeadMask.of(
        row[::-1] if row[::-1] != row else [*row[1:], row[0]] for row in mask.kept
    )
    return difference(expected, run_exercises(_without(model, mirrored), exercises)) > TOLERANCE


def _without(model: PreTrainedModel, mask: HeadMask) -> PreTrainedModel:
    cut = copy.deepcopy(model)
    remove_(cut, PruningPlan(mask, gqa="equalize"))
    return cut
