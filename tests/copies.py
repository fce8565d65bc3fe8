"""Random plans that copy heads onto others, for tests."""

from __future__ import annotations

import random

from torch import nn

from deadhead import Head, HeadModel, PruningPlan
from deadhead.surgery.groups import members_of


def plan_for(
    model: nn.Module, seed: int, *, action: str = "duplicate", unit: str = "head"
) -> PruningPlan:
    """Copy random heads onto others of their block: onto what shares their keys, or in groups."""
    rng, view = random.Random(seed), HeadModel(model)
    copies: dict[Head, Head] = {}
    for number, block in enumerate(view.blocks):
        groups = [[Head(number, i) for i in members] for members in members_of(block)]
        if block.n_heads == block.n_kv_heads:
            cells = [[[h] for group in groups for h in group]]
        elif unit == "kv":
            cells = [groups]
        else:
            cells = [[[h] for h in group] for group in groups]
        for cell in cells:
            rng.shuffle(cell)
            sources = cell[: rng.randint(1, len(cell))]
            for unit_ in cell[len(sources) :]:
                copies.update(zip(unit_, rng.choice(sources), strict=True))
    gqa = "whole_groups" if unit == "kv" else "ungroup"
    mask = view.mask.drop(*copies)
    slope = "source" if view.records[0].slopes else "target"
    return PruningPlan(mask, copies, action=action, gqa=gqa, slope=slope)
