"""Masking: heads switched off for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deadhead.heads import HeadModel
from deadhead.types import HeadMask


@contextmanager
def masked(model: nn.Module | HeadModel, mask: HeadMask) -> Iterator[nn.Module]:
    """Switch off the heads that `mask` drops, until the context is left.

    Works with every attention backend; equals removal to rounding. Heads that the model has
    already lost may be kept or dropped by the mask, it is all the same.

    Raises:
        HeadError: the mask is for another model.

    Example:
        >>> with masked(model, mask):  # doctest: +SKIP
        ...     logits = model(**inputs).logits
    """
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    mask.check_shape(view.mask.counts)
    gates = []
    for row, block in zip(mask.kept, view.blocks, strict=True):
        kept = [float(row[i]) for i in block.held.heads]
        gates.append(torch.tensor(kept, device=block.output.weight.device))  # type: ignore[arg-type]
    with view.gated(gates):
        yield view.model
