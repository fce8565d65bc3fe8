"""The only file that cuts weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.models.architectures import HeadCounts, features, rows_from
from deadhead.models.architectures.adapters import pad_features, take_features
from deadhead.models.blocks import Block, HeadRows, is_conv1d, output_rows


@dataclass(frozen=True)
class Cut:
    """What one block keeps, as positions in its current weights.

    Attributes:
        heads: query heads, in ascending order.
        kv_heads: key/value heads, in order; one may be named twice, to be copied.
    """

    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]


def slice_(block: Block, cut: Cut) -> None:
    """Cut one block's projections in place. On meta tensors only shapes change.

    The output bias is kept.
    """
    for module in block.inputs:
        index = rows_kept(block, cut, module)
        if block.record.padded:
            pad_features(module, index, len(output_rows(module)))
        _select_outputs_(module, index)
    for rows in block.rows:
        index = units_kept(block, cut, rows)
        if block.record.padded and rows.name == "weight":
            pad_features(rows.module, index, len(rows.tensor))
        _select_(rows.module, rows.name, rows.of.dim, index)
        _count_features(rows.module)
    columns = columns_kept(block, cut)
    if block.record.padded:
        take_features(block.output, columns, block.n_heads * block.head_dim)
    _select_inputs_(block.output, columns)


def rows_kept(block: Block, cut: Cut, module: nn.Module) -> Tensor:
    """Return which output features of a query, key or value projection a cut keeps, in order."""
    keep = {"query": cut.heads, "key": cut.kv_heads, "value": cut.kv_heads}
    layout = block.record.layout
    shape = HeadCounts(len(cut.heads), len(cut.kv_heads), block.head_dim)
    parts = [part for part, other in block.projections.items() if other is module]
    moves = [  # (where the features of a head will begin, where they begin)
        (layout(part, new, shape), layout(part, old, block.shape))
        for part in parts
        for new, old in enumerate(keep[part])
    ]
    return rows_from([old for _, old in sorted(moves)], block.head_dim)


def units_kept(block: Block, cut: Cut, rows: HeadRows) -> Tensor:
    """Return which indices of a further parameter, along its dimension of heads, a cut keeps."""
    heads = rows.of.unit == "heads"
    units = cut.heads if heads else cut.kv_heads
    return rows.rows(units, block.n_heads if heads else block.n_kv_heads)


def columns_kept(block: Block, cut: Cut) -> Tensor:
    """Return which input features of the output projection a cut keeps, in order."""
    return rows_from([position * block.head_dim for position in cut.heads], block.head_dim)


def slices_of(block: Block, part: str, heads: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return (tensor, rows) of the weight, and of the bias if any, for some heads of one part.

    Shape: the tensors are (output features, ...); `heads` are positions in the weights now.
    """
    module = getattr(block, part)
    rows = features(block.record.layout, part, heads, block.shape).to(module.weight.device)
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
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, name, new)


def _count_features(module: Any) -> None:
    """Let a module's own numbers of features follow its weight."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if hasattr(module, "out_features"):
        module.out_features, module.in_features = weight.shape
    if isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = weight.shape
    if hasattr(module, "normalized_shape"):
        module.normalized_shape = tuple(weight.shape)  # type: ignore[assignment]


def add_output_bias_(block: Block) -> None:
    """Give a block's output projection a bias of zeros, in place, if it has none.

    The block's own record says so, and with it the manifest of a checkpoint. `block` may be older
    than its last cut. The caller refreshes the view.
    """
    module: Any = block.output
    if module.bias is not None:
        return
    rows = module.weight.new_zeros(module.weight.shape[0])
    module.bias = nn.Parameter(rows, requires_grad=module.weight.requires_grad)
    original = getattr(block.attention, "deadhead_heads", block.original)  # as the last cut left it
    block.attention.deadhead_heads = replace(original, output_bias=True)  # type: ignore[assignment]
