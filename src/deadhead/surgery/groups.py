"""Policies for key/value heads that several query heads share (GQA, MQA).

A policy decides which key/value slots of a block are kept when some query heads are removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from deadhead.errors import GroupError, unknown_name
from deadhead.models.blocks import Block
from deadhead.types import Head


def whole_groups(number: int, block: Block, kept: tuple[int, ...]) -> tuple[int, ...]:
    """Keep or drop a key/value head with all its query heads: the cache shrinks."""
    for slot, members in enumerate(members_of(block)):
        gone = [h for h in members if h not in kept]
        stay = [h for h in members if h in kept]
        if gone and stay:
            raise GroupError(
                f"cannot remove head {Head(number, gone[0])}: it shares key/value head"
                f" {block.original.kv_heads[slot]} with head {Head(number, stay[0])}, which is"
                ' kept; keep both, remove both, or choose gqa="ungroup" (exact, copies keys)'
            )
    return tuple(s for s, members in enumerate(members_of(block)) if members[0] in kept)


def equalize(number: int, block: Block, kept: tuple[int, ...]) -> tuple[int, ...]:
    """Keep the same number of query heads in every key/value group that is kept."""
    sizes = Counter(slot_of(block, h) for h in kept)
    if len(set(sizes.values())) > 1:
        gone = [str(Head(number, h)) for h in block.original.heads if h not in kept]
        raise GroupError(
            f"cannot remove heads {', '.join(gone)}: the key/value groups of block {number} would"
            f" keep {', '.join(str(sizes[s]) for s in sorted(sizes))} query heads;"
            ' drop the same number in each group, or choose gqa="ungroup" (exact, copies keys)'
        )
    return tuple(sorted(sizes))


def ungroup(number: int, block: Block, kept: tuple[int, ...]) -> tuple[int, ...]:
    """Copy keys and values, a pair to each query head, in blocks whose groups become uneven.

    Any mask is exact. Blocks whose groups remain even are cut as by `equalize`: the cache shrinks.
    """
    slots = tuple(slot_of(block, h) for h in kept)
    sizes = Counter(slots)
    return slots if len(set(sizes.values())) > 1 else tuple(sorted(sizes))


Policy = Callable[[int, Block, tuple[int, ...]], tuple[int, ...]]
POLICIES: dict[str, Policy] = {f.__name__: f for f in (whole_groups, equalize, ungroup)}


def policy_named(name: str) -> Policy:
    """Look up a policy.

    Raises:
        UnknownNameError: there is none of that name.
    """
    name = {"equalise": "equalize"}.get(name, name)  # as plans of older versions spell it
    if name not in POLICIES:
        raise unknown_name("gqa policy", name, POLICIES)
    return POLICIES[name]


def slot_of(block: Block, head: int) -> int:
    """Return the key/value slot that a query head reads; slots count current ones."""
    return block.position(head) // block.shape.group_size


def members_of(block: Block) -> list[list[int]]:
    """List, per key/value slot, the query heads (original indices) that read it."""
    members: list[list[int]] = [[] for _ in range(block.n_kv_heads)]
    for head in block.original.heads:
        members[slot_of(block, head)].append(head)
    return members
