"""The only file that cuts weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deadhead.models.architectures import Architecture, HeadCounts, features
from deadhead.models.heads import Block, is_conv1d


@dataclass(frozen=True)
class Cut:
    """What stays of one block, as positions in its weights as they are now.

    Attributes:
        heads: query heads, in ascending order.
        kv_heads: key/value heads, in order; one may be named twice, to be copied.
    """

    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]


def slice_(block: Block, architecture: Architecture, cut: Cut) -> None:
    """Cut one block's projections in place. On meta tensors only shapes change.

    The output bias stays.
    """
    keep = {"query": cut.heads, "key": cut.kv_heads, "value": cut.kv_heads}
    for module in {id(m): m for m in (block.query, block.key, block.value)}.values():
        parts = [p for p in keep if getattr(block, p) is module]
        index = torch.cat([features(architecture.layout, p, keep[p], block.shape) for p in parts])
        # inside a fused projection the order of features is the layout's, not ours
        _select_outputs_(module, index.sort().values if len(parts) > 1 else index)
    _select_inputs_(block.output, features(_in_order, "query", cut.heads, block.shape))


def _in_order(part: str, index: int, shape: HeadCounts) -> int:
    return index * shape.head_dim


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
