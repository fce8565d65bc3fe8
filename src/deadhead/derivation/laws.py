"""The laws that a record has to obey, on a model that can be run."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deadhead.derivation.exercises import Exercise, perform
from deadhead.models.architectures import ARCHITECTURES, Records, register_architecture
from deadhead.models.blocks import Block
from deadhead.models.heads import HeadModel
from deadhead.surgery.mask import masked
from deadhead.surgery.remove import remove_
from deadhead.types import HeadMask, PruningPlan

TOLERANCE = 1e-10  # in float64, relative
ROUNDED = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
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
        with torch.set_grad_enabled(gradients):
            found += _tensors(perform(model, exercise))
    return found


def tolerance_of(model: nn.Module) -> float:
    """Return the relative difference that rounding explains in the dtype of a model."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return max((ROUNDED.get(kind, TOLERANCE) for kind in kinds), default=TOLERANCE)


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

    Every other mask removes whole groups where there are several; the rest thins each group. Heads
    that the model has lost before stay lost.
    """
    draw = random.Random(seed)
    return [
        _mask_of(view, [_row(draw, block, whole=number % 2 == 0) for block in view.blocks])
        for number in range(count)
    ]


def _mask_of(view: HeadModel, rows: Sequence[Sequence[bool]]) -> HeadMask:
    """Return the mask that keeps some of the heads that each block has now."""
    kept = [
        list(itertools.compress(b.original.heads, r))
        for b, r in zip(view.blocks, rows, strict=True)
    ]
    return HeadMask.of(
        [index in heads for index in range(block.original.n_heads)]
        for heads, block in zip(kept, view.blocks, strict=True)
    )


def _rows_of(view: HeadModel, mask: HeadMask) -> list[list[bool]]:
    """Return which of the heads that each block has now a mask keeps."""
    pairs = zip(view.blocks, mask.kept, strict=True)
    return [[row[index] for index in block.original.heads] for block, row in pairs]


def _row(draw: random.Random, block: Block, *, whole: bool) -> list[bool]:
    size, groups = block.shape.group_size, block.n_kv_heads
    if block.n_heads < 2:
        return [True] * block.n_heads
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


def stacks_of(view: HeadModel) -> dict[str, list[int]]:
    """Return the numbers of the blocks of each stack, by the stack's name."""
    stacks: dict[str, list[int]] = {}
    for number, block in enumerate(view.blocks):
        stacks.setdefault(block.record.stack, []).append(number)
    return stacks


def within(view: HeadModel, mask: HeadMask, blocks: Sequence[int]) -> HeadMask:
    """Return a mask that drops only what another drops in some blocks."""
    rows = enumerate(zip(mask.kept, view.mask.kept, strict=True))
    return HeadMask.of(row if number in blocks else whole for number, (row, whole) in rows)


def wrong_cuts(view: HeadModel, exercises: Sequence[Exercise]) -> dict[str, float]:
    """Mask some heads and remove others, stack by stack, and return how far the outputs differ.

    Stacks whose blocks have one head each are left out.
    """
    found: dict[str, float] = {}
    model: Any = view.model
    for stack, blocks in stacks_of(view).items():
        for shown, gone in _wrong_pairs(view, blocks):
            with masked(view, shown):
                expected = run_exercises(model, exercises)
            found[stack] = difference(expected, run_exercises(_without(model, gone), exercises))
            break
    return found


def _wrong_pairs(view: HeadModel, blocks: Sequence[int]) -> Iterator[tuple[HeadMask, HeadMask]]:
    """Yield masks of one stack, each with its mirror image, where the two differ."""
    for mask in draw_masks(view, 20, seed=2):
        mirrored = _mask_of(view, [row[::-1] for row in _rows_of(view, mask)])
        if any(mask.kept[n] != mirrored.kept[n] for n in blocks):
            yield within(view, mask, blocks), within(view, mirrored, blocks)


def _without(model: PreTrainedModel, mask: HeadMask) -> PreTrainedModel:
    cut = copy.deepcopy(model)
    remove_(cut, PruningPlan(mask, gqa="equalize"))
    return cut
