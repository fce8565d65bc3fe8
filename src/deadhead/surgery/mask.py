"""Masking: heads switched off for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deadhead.models.blocks import output_rows
from deadhead.models.heads import HeadModel
from deadhead.surgery.plans import PlanLike, as_mask, as_plan, as_view
from deadhead.surgery.slicing import slices_of


@contextmanager
def masked(model: nn.Module | HeadModel, mask: PlanLike) -> Iterator[nn.Module]:
    """Switch off the heads that `mask` drops, until the context is left.

    Works with every attention backend; equals removal to rounding, also for heads whose outputs are
    NaN or infinite. Heads that have been removed already may be kept or dropped by the mask.
    Meanwhile the model is masked for every thread, and compiled code runs uncompiled.

    Args:
        model: the model.
        mask: a mask, a list of heads to drop, or a plan that only drops heads.

    Raises:
        HeadError: the mask is for another model, or a plan asks for more than a mask.
        ModelInUseError: another thread masks, scores or changes the model.
        UnsupportedModelError: in a forward pass, something bypasses the hooks.

    Example:
        >>> import deadhead
        >>> loaded = deadhead.load_model("bundled:encoder")
        >>> inputs = loaded.tokenizer(["a good film"], return_tensors="pt")
        >>> with masked(loaded.model, [(0, 1), "3.2"]) as model:
        ...     logits = model(**inputs).logits
        >>> logits.shape
        torch.Size([1, 3])
    """
    view = as_view(model)
    gates = []
    for row, block in zip(as_mask(view, mask).kept, view.blocks, strict=True):
        gates.append(torch.tensor([row[i] for i in block.original.heads], dtype=torch.bool))
    with view.gated(gates):
        yield model if isinstance(model, nn.Module) else view.model


def mask_(model: nn.Module | HeadModel, plan: PlanLike) -> nn.Module:
    """Switch off the heads that a plan drops, in place: their slices become zero.

    The slices are those of the output projection, and of queries, keys and values that no kept head
    shares, so that these heads output exactly zero. Nothing gets smaller, and any tool
    loads the checkpoint. Logits equal those of `masked`.

    Args:
        model: the model.
        plan: a plan without a repair, a mask, or a list of heads.

    Raises:
        HeadError: the plan is for another model or action, or has a repair.
        ModelInUseError: the model is masked or hooked at the moment.
        UnsupportedModelError: weights are not in memory.
    """
    view = as_view(model)
    plan = as_plan(view, plan, "mask")
    with view.changing("mask heads"), torch.no_grad():
        for row, block in zip(plan.mask.kept, view.blocks, strict=True):
            columns = output_rows(block.output).detach().unflatten(1, (-1, block.head_dim))
            off = [not row[index] for index in block.original.heads]
            columns[:, off] = 0
            size = block.shape.group_size
            shared = [all(off[at : at + size]) for at in range(0, len(off), size)]
            for part in block.projections:
                switched = off if part == "query" else shared
                heads = [position for position, gone in enumerate(switched) if gone]
                for tensor, rows in slices_of(block, part, heads):
                    tensor[rows] = 0
    return view.model
