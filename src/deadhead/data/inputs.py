"""Batches as the model wants them: aligned to the left, labels aside, on its device."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


def without_empty(batch: Batch) -> dict[str, Tensor]:
    """Remove the samples that are padding only, which must not count anywhere.

    Shape: every tensor with one row per sample loses their rows; no sample may be left.
    """
    mask = batch.get("attention_mask")
    if mask is None or bool((real := mask.bool().any(1)).all()):
        return dict(batch)
    n = len(mask)
    return {k: v[real.to(v.device)] if v.dim() and len(v) == n else v for k, v in batch.items()}


def aligned(batch: Batch) -> dict[str, Tensor]:
    """Move padding to the right of every row, so that positions do not depend on its side.

    Samples that are padding only are removed.

    Shape: every tensor that starts with the shape of `attention_mask`, (batch, tokens), is moved
    along with it.
    """
    batch = without_empty(batch)
    mask = batch.get("attention_mask")
    if mask is None or bool(mask[:, 0].all()):
        return dict(batch)
    order = torch.argsort(mask, dim=1, descending=True, stable=True)
    rows = torch.arange(len(mask), device=mask.device)[:, None]
    return {k: v[rows, order] if v.shape[:2] == mask.shape else v for k, v in batch.items()}


def valid_tokens(batch: Batch) -> Tensor:
    """Return which tokens are real; shape (batch, tokens), bool."""
    mask = batch.get("attention_mask")
    first = batch["input_ids"] if "input_ids" in batch else batch["inputs_embeds"][..., 0]
    return torch.ones_like(first, dtype=torch.bool) if mask is None else mask.bool()


def call(model: nn.Module, batch: Batch) -> Any:
    """Run the model on a batch: without labels, and with no argument that it does not know."""
    known = inspect.signature(model.forward).parameters
    named = [n for n, p in known.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    inputs = {k: v for k, v in batch.items() if k != "labels" and (k in known or not named)}
    extra = {"use_cache": False} if "use_cache" in known else {}
    return model(**inputs, **extra)


def samples_in(batch: Batch) -> int:
    """Return the number of samples in a batch."""
    return len(valid_tokens(batch))


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to a device."""
    return {k: v.to(device) for k, v in batch.items()}
