"""How projection weights are laid out: which output features belong to which head.

A layout is one function `(part, index, heads) -> first feature`; everything else follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class HeadCounts:
    """Current shape of one block: query heads, key/value heads, features a head."""

    n_heads: int
    n_kv_heads: int
    head_dim: int

    def count(self, part: str) -> int:
        """Return the number of heads of one part."""
        return self.n_heads if part == "query" else self.n_kv_heads

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 1


Layout = Callable[[str, int, HeadCounts], int]


def separate(part: str, index: int, shape: HeadCounts) -> int:
    """Three projections, heads one after the other (BERT, OPT, Llama)."""
    return index * shape.head_dim


def fused_per_head(part: str, index: int, shape: HeadCounts) -> int:
    """One projection `(heads, 3, head_dim)`: q, k, v of a head side by side (BLOOM, GPT-NeoX)."""
    return (3 * index + PARTS.index(part)) * shape.head_dim


def fused_by_part(part: str, index: int, shape: HeadCounts) -> int:
    """One projection `q | k | v`, each with its heads one after the other (GPT-2, Phi-3)."""
    before = {
        "query": 0,
        "key": shape.n_heads,
        "value": shape.n_heads + shape.n_kv_heads,
    }
    return (before[part] + index) * shape.head_dim


def fused_grouped(part: str, index: int, shape: HeadCounts) -> int:
    """One projection of key/value groups: the queries of a group, its key, its value (Falcon)."""
    size = shape.group_size
    if part == "query":
        return (index // size * (size + 2) + index % size) * shape.head_dim
    return (index * (size + 2) + size + PARTS.index(part) - 1) * shape.head_dim


LAYOUTS: dict[str, Layout] = {
    layout.__name__: layout for layout in (separate, fused_per_head, fused_by_part, fused_grouped)
}


def features(layout: Layout, part: str, heads: Iterable[int], shape: HeadCounts) -> torch.Tensor:
    """Return the output features of some heads of one part, head by head.

    Shape: (heads * head_dim,), int64; `heads` are positions in the current weights.
    """
    return rows_from([layout(part, h, shape) for h in heads], shape.head_dim)


def rows_from(firsts: Sequence[int], head_dim: int) -> torch.Tensor:
    """Return the features of heads that begin at some features; shape (heads * head_dim,)."""
    starts = torch.tensor(firsts, dtype=torch.long, device="cpu")  # also while a model is on meta
    return (starts[:, None] + torch.arange(head_dim, device="cpu")).reshape(-1)
