"""The only file that cuts weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.models.architectures import Architecture, features, rows_from
from deadhead.models.blocks import Block, is_conv1d, output_rows


@dataclass(frozen=True)
class Cut:
    """What one block keeps, as positions in its current weights.

    Attributes:
        heads: query heads, in ascending order.
        kv_heads: key/value heads, in order; one may be named twice, to be copied.
    """

    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]


def slice_(block: Block, architecture: Architecture, cut: Cut) -> None:
    """Cut one block's projections in place. On meta tensors only shapes change.

    The output bias is kept.
    """
    keep = {"query": cut.heads, "key": cut.kv_heads, "value": cut.kv_heads}
    for module in {id(m): m for m in (block.query, block.key, block.value)}.values():
        parts = [p for p in keep if getattr(block, p) is module]
        firsts = [architecture.layout(p, h, block.shape) for p in parts for h in keep[p]]
        if len(parts) > 1:  # inside a fused projection the order of heads is the layout's, not ours
            firsts.sort()
        _select_outputs_(module, rows_from(firsts, block.head_dim))
    columns = rows_from([position * block.head_dim for position in cut.heads], block.head_dim)
    _select_inputs_(block.output, columns)


def slices_of(
    block: Block, architecture: Architecture, part: str, heads: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Return (tensor, rows) of the weight, and of the bias if any, for some heads of one part.

    Shape: the tensors are (output features, ...); `heads` are positions in the weights now.
    """
    module = getattr(block, part)
    rows = features(architecture.layout, part, heads, block.shape).to(module.weight.device)
    tensors = [output_rows(module).detach()]
    tensors += [] if module.bias is None else [module.bias.detach()]
    return [(tensor, rows) for tensor in tensors]


def _select_outputs_(module: Any, index: torch.Tensor) -> None:
    _select_(module, "weight", 1 if is_conv1d(module) else 0, index)
    if module.bias is not None:
        _select_(module, "bias", 0, index)
    setattr(module, "nf" if is_conv1d(module) else "out_features", len(index))


def _select_inputs_(module: Any, index: torch.Tensor) -> None:
    _select_(module, "weight", 0 if is_conv1d(module) else 1, index)
    setattr(module, "nx" if is_conv1d(module) else "in_features", len(index))


def _select_(module: nn.Module, name: str, dim: int, index: torch.Tensor) -> None:
    old = getattr(module, name)
    new = old.detach().index_select(dim, index.to(old.device)).contiguous()
    setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
