"""ALiBi slopes: which head's slope each head of a block has, its own by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from deadhead.models.blocks import Block, OriginalHeads
from deadhead.models.heads import HeadModel
from deadhead.types import Head


def slopes_with(view: HeadModel, copies: Mapping[Head, Head]) -> dict[int, tuple[int, ...]]:
    """Return the slopes of every block that copies change, if copies take their source's slope.

    Shape: `{block: original indices, one per current head}`; empty for models without slopes.
    """
    if not any(record.slopes for record in view.records):
        return {}
    found = {head.block: list(_slopes(view.blocks[head.block])) for head in copies}
    for head, source in copies.items():
        of = view.blocks[source.block]
        slope = _slopes(of)[of.position(source.index)]
        found[head.block][view.blocks[head.block].position(head.index)] = slope
    return {number: tuple(slopes) for number, slopes in found.items()}


def set_slopes_(block: Block, original: OriginalHeads, slopes: tuple[int, ...]) -> None:
    """Give the heads of a block the slopes of these original indices, in place."""
    block.attention.deadhead_heads = replace(original, slopes=slopes)  # type: ignore[assignment]
    if block.record.after_cut is not None:
        block.record.after_cut(block.attention, slopes)


@contextmanager
def with_slopes(block: Block, slopes: tuple[int, ...]) -> Iterator[None]:
    """Give the heads of a block these slopes, until the context is left."""
    attention: Any = block.attention
    names = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "__dict__")
    before = {name: dict(getattr(attention, name)) for name in names}
    try:
        set_slopes_(block, block.original, slopes)
        yield
    finally:
        for name in names[:2]:
            hooks = getattr(attention, name)
            hooks.clear()
            hooks.update(before[name])
        attention.__dict__.pop("deadhead_heads")
        if "deadhead_heads" in before["__dict__"]:
            attention.deadhead_heads = before["__dict__"]["deadhead_heads"]


def _slopes(block: Block) -> tuple[int, ...]:
    return block.original.slopes or block.original.heads
