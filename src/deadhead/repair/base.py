"""What a repair is: new output projections for a plan, from moments of the dense model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deadhead.errors import HeadError, ScoreError, unknown_name
from deadhead.heads import Block, HeadModel, output_rows
from deadhead.moments import BlockMoments, Moments
from deadhead.types import COPYING, Head, PruningPlan


@dataclass(frozen=True, eq=False)
class Fit:
    """A block's new output projection, in the positions of its weights now; float64.

    Attributes:
        weight: (hidden, width), zero in the columns of heads that go.
        bias: (hidden,).
        facts: what was chosen and measured on the way (ridge, errors); JSON values.
    """

    weight: Tensor
    bias: Tensor
    facts: Mapping[str, Any] = field(default_factory=dict)


Fits = Mapping[int, Fit]


@dataclass(frozen=True, eq=False)
class Job:
    """One block to repair.

    Attributes:
        dense: weight before, (hidden, width).
        cut: weight after surgery alone: zero where heads go, folded where they fold.
        bias: bias before; zeros where the projection has none.
        kept: features that stay, ascending.
        moments: of the dense block.
    """

    dense: Tensor
    cut: Tensor
    bias: Tensor
    kept: Tensor
    moments: BlockMoments


Repair = Callable[[Job], Fit]


_REGISTRY: dict[str, Repair] = {}
BEGINS_WITH = {"distill": "least_squares"}  # repairs that train what another has fitted


def register_repair(name: str) -> Callable[[Repair], Repair]:
    """Register a function from a job to a fit as a repair."""

    def register(repair: Repair) -> Repair:
        _REGISTRY[name] = repair
        return repair

    return register


def repair_named(name: str) -> Repair:
    """Look up a repair.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in _REGISTRY:
        raise unknown_name("repair", name, [*_REGISTRY, "none"])
    return _REGISTRY[name]


def repair_names() -> list[str]:
    """List the repairs that are known, `none` first."""
    return ["none", *sorted([*_REGISTRY, *BEGINS_WITH])]


def fit(view: HeadModel, plan: PruningPlan, moments: Moments, repair: str) -> dict[int, Fit]:
    """Refit the output projection of every block that a plan takes heads from.

    For `distill`, which trains the cut model afterwards (`distill_`), by what it begins with.

    The model is not touched; `repaired` and `write_fits_` put the fits in. A block that loses every
    head gets its mean output as bias. Blocks that lose none are not listed: they stay as they are.

    Cost: algebra only, `width^3` per block.

    Raises:
        UnknownNameError: there is no such repair.
        HeadError: the plan duplicates heads, or is for another model.
        ScoreError: there are no moments of a block that is to be repaired.
    """
    if repair == "none":
        return {}
    chosen = repair_named(BEGINS_WITH.get(repair, repair))
    if plan.action == "duplicate":
        raise HeadError(
            "duplicated heads cannot be repaired: each keeps its own output slice; choose the"
            " action fold (the same logits with fewer heads), mask or remove, or repair none"
        )
    plan.mask.check_shape(view.mask.counts)
    fits: dict[int, Fit] = {}
    for number, block in enumerate(view.blocks):
        kept = [block.position(i) for i in plan.mask.kept_in(number) if i in block.held.heads]
        if len(kept) == block.n_heads:
            continue
        found = moments.felt[number]
        if found is None:
            raise ScoreError(f"nothing was seen of block {number} to repair it; give samples")
        dense = output_rows(block.output).detach().cpu().double()
        bias = getattr(block.output, "bias", None)
        job = Job(
            dense=dense,
            cut=_cut(view, number, plan, dense),
            bias=dense.new_zeros(len(dense)) if bias is None else bias.detach().cpu().double(),
            kept=features_of(block, kept),
            moments=found,
        )
        fits[number] = chosen(job)
    return fits


def features_of(block: Block, positions: list[int]) -> Tensor:
    """Return the input features of the output projection that heads at some positions make."""
    starts = torch.tensor(positions, dtype=torch.long) * block.head_dim
    return (starts[:, None] + torch.arange(block.head_dim)).reshape(-1)


def _cut(view: HeadModel, number: int, plan: PruningPlan, dense: Tensor) -> Tensor:
    """Return the weight that surgery alone would leave."""
    block = view.blocks[number]
    cut = dense.clone().unflatten(1, (-1, block.head_dim))
    for position, index in enumerate(block.held.heads):
        head = Head(number, index)
        if plan.mask.keeps(head):
            continue
        source = plan.copies.get(head) if plan.action in COPYING else None
        if source is not None:
            cut[:, block.position(source.index)] += dense.unflatten(1, (-1, block.head_dim))[
                :, position
            ]
        cut[:, position] = 0
    return cut.flatten(1)
