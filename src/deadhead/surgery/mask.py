"""Masking: heads switched off for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deadhead.models.heads import HeadModel, output_rows
from deadhead.types import HeadMask, PruningPlan


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


def mask_(model: nn.Module | HeadModel, plan: PruningPlan) -> nn.Module:
    """Switch off the heads that a plan drops for good: their output slices become zero, in place.

    Nothing gets smaller, and any tool loads the checkpoint. Logits equal those of `masked`.

    Raises:
        HeadError: the plan is for another model.
    """
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    plan.mask.check_shape(view.mask.counts)
    with torch.no_grad():
        for row, block in zip(plan.mask.kept, view.blocks, strict=True):
            columns = output_rows(block.output).detach().unflatten(1, (-1, block.head_dim))
            for position, index in enumerate(block.held.heads):
                if not row[index]:
                    columns[:, position] = 0
    return view.model
