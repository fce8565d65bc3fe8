"""What else a proven record says: its backends, maps, samples, and blocks without heads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deadhead.derivation.exercises import Exercise
from deadhead.derivation.laws import (
    TOLERANCE,
    difference,
    known,
    mask_equals_removal,
    run_exercises,
)
from deadhead.models.architectures import Architecture
from deadhead.models.heads import HeadModel
from deadhead.models.maps import hook_maps
from deadhead.types import HeadMask


def backends(model: PreTrainedModel, found: Sequence[Exercise]) -> list[PreTrainedModel]:
    """Return a model with eager attention, and a copy with sdpa if the exercises run on it."""
    if not getattr(model, "_supports_sdpa", False):
        return [model]
    other = copy.deepcopy(model)
    try:
        other.set_attn_implementation("sdpa")
        run_exercises(other, found)
    except Exception:  # a backend that the type does not have
        return [model]
    return [model, other]


def samples_at(model: PreTrainedModel, exercise: Exercise, output: str) -> int:
    """Return which dimension of an output projection's input counts samples; -1 if none does."""
    seen: list[Tensor] = []
    module = model.get_submodule(output)
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    twice = {name: _twice(value) for name, value in exercise.kwargs.items()}
    try:
        run_exercises(model, [exercise, replace(exercise, kwargs=twice)])
    except Exception:  # arguments that cannot be repeated
        return -1
    finally:
        hook.remove()
    before, after = seen[0], seen[len(seen) // 2]
    for dim in (0, 1) if before.dim() == 3 else (0,):
        count = before.shape[dim]
        if count % 2 == 0 and before.shape == after.shape:
            first, second = after.movedim(dim, 0).split(count // 2)
            kept = torch.equal(first, before.movedim(dim, 0)[: count // 2])
            if kept and torch.allclose(first, second, rtol=0, atol=1e-9):
                return dim
    return -1


def _twice(value: Any) -> Any:
    """Give a batch of two samples the first one twice."""
    if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] % 2:
        return value
    half = value[: value.shape[0] // 2]
    return torch.cat([half, half])


def with_maps(
    model: PreTrainedModel, found: Sequence[Exercise], proven: Architecture
) -> Architecture:
    """Say where attention maps are seen, if watching them changes no output."""
    for maps in ("interface", "output"):
        tried = replace(proven, maps=maps)
        seen: set[int] = set()

        def check(number: int, rows: slice, shown: Tensor, *_: Any, seen: set[int] = seen) -> None:
            if shown.dim() == 4 and bool(((shown.sum(-1) - 1).abs() < 1e-6).all()):
                seen.add(number)

        try:
            with known((tried,)):
                view = HeadModel(model)
                dense = run_exercises(model, found)
                with hook_maps(view, check):
                    watched = run_exercises(model, found)
                if difference(dense, watched) <= TOLERANCE and len(seen) == len(view.blocks):
                    return tried
        except Exception:  # this way is refuted
            continue
    return proven


def headless(
    model: PreTrainedModel, found: Sequence[Exercise], proven: Architecture
) -> Architecture:
    """Say what a block without heads does: sliced to no rows, or skipped, or not allowed."""
    options = ({"headless": "sliced"}, {}, {"maps": "none"})
    for changes in options:
        tried = replace(proven, **changes)
        try:
            with known((tried,)):
                counts = HeadModel(model).mask.counts
                masks = [
                    HeadMask.of([i % 2 == kept] * n for i, n in enumerate(counts))
                    for kept in (1, 0)  # blocks may differ in shape, as of stages
                ]
                off = (mask_equals_removal(m, found, masks) for m in backends(model, found))
                if max(off) <= TOLERANCE:
                    return tried
        except Exception:  # this way is refuted
            continue
    return replace(proven, headless="refused")
