"""A user's own model, as the laws need it: eager, on the CPU, in the widest dtype that fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from deadhead.checkpoints import load_model

COPIES = 3  # of the weights that the laws hold at a time
DTYPES = (torch.float64, torch.float32)


def own_model(source: str | Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a model with eager attention, in float64 if memory allows; else in float32; else as is.

    Raises:
        UnknownNameError, UnsupportedModelError, CheckpointError: as `load_model`.
    """
    model: Any = load_model(source, trust_remote_code=trust_remote_code).model
    count, free = sum(p.numel() for p in model.parameters()), free_memory()
    for dtype in DTYPES:
        fits = free is None or COPIES * count * dtype.itemsize < free
        if fits and dtype.itemsize > model.dtype.itemsize:
            model = model.to(dtype)
            break
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    return model


def free_memory() -> int | None:
    """Return how many bytes of memory are free, or None where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
