"""The texts of a distillation as batches of one optimizer step each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import torch

from deadhead.data.inputs import LABELS, Batch, aligned, valid_tokens, without_empty
from deadhead.errors import DataError


class HasBatches(Protocol):
    """A task, or whatever else has padded batches."""

    def batches(self) -> Iterable[Batch]:
        """Return them."""
        ...


def training_batches(data: HasBatches | Iterable[Batch], most: int) -> list[Batch]:
    """Split batches evenly into ones of at most `most` samples of like length, without labels.

    Shape: every tensor of one row per sample is split, and every one of (batch, tokens) loses the
    padding that is left over.

    Raises:
        DataError: there are no samples.
    """
    batches = data.batches() if hasattr(data, "batches") else data  # type: ignore[union-attr]
    pieces = [piece for batch in batches for piece in _split(batch, most)]  # type: ignore[union-attr]
    if not pieces:
        raise DataError("there is no text to distill on; give batches with at least one sample")
    return pieces


def _split(batch: Batch, most: int) -> list[Batch]:
    batch = aligned(without_empty({k: v for k, v in batch.items() if k not in LABELS}))
    valid = valid_tokens(batch)
    lengths = valid.sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    return [_rows(batch, rows, lengths, valid.shape) for rows in _runs(order, most)]


def _runs(order: torch.Tensor, most: int) -> Iterable[torch.Tensor]:
    return order.tensor_split(math.ceil(len(order) / most)) if len(order) else ()


def _rows(batch: Batch, rows: torch.Tensor, lengths: torch.Tensor, shape: torch.Size) -> Batch:
    width = int(lengths[rows].max().clamp(min=1))
    piece = {}
    for name, tensor in batch.items():
        of_samples = tensor.dim() > 0 and len(tensor) == shape[0]
        taken = tensor[rows.to(tensor.device)] if of_samples else tensor
        piece[name] = taken[:, :width] if tensor.shape[:2] == shape else taken
    return piece
