"""Random masks for tests."""

from __future__ import annotations

import random

from deadhead import Head, HeadMask


def random_mask(mask: HeadMask, seed: int, *, share: float = 0.5) -> HeadMask:
    """Drop about `share` of the heads; seed 0 drops all of block 0 as well."""
    rng = random.Random(seed)
    gone = [h for h in mask.heads if rng.random() < share]
    if seed == 0:
        gone += [h for h in mask.heads if h.block == 0]
    return mask.drop(*gone)


def legal_mask(mask: HeadMask, seed: int, gqa: str, group: int) -> HeadMask:
    """A random mask that a policy allows, for blocks whose key/value groups have `group` heads."""
    if gqa == "ungroup":
        return random_mask(mask, seed)
    rng = random.Random(seed)
    gone: list[Head] = []
    for block, heads in enumerate(mask.counts):
        per_group = rng.randrange(group) if gqa == "equalize" else 0
        for start in range(0, heads, group):
            members = [Head(block, i) for i in range(start, start + group)]
            whole = rng.random() < 0.4
            gone += members if whole else rng.sample(members, per_group)
    return mask.drop(*gone)
