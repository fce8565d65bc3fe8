"""The fits that a repair makes for a plan, from moments of the dense model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from deadhead.data.batches import Batch
from deadhead.errors import DataError, HeadError, ScoreError
from deadhead.models.heads import HeadModel
from deadhead.models.purpose import is_causal_lm
from deadhead.moments import Moments
from deadhead.repair.base import (
    REPAIRS,
    BlockFit,
    Fit,
    FitBlock,
    Fits,
    own_share,
    without_training,
)
from deadhead.types import COPYING, Head, PruningPlan

UNREPAIRABLE = (
    "duplicated heads cannot be repaired: each keeps its own output slice; choose the action fold"
    " (the same logits with fewer heads), mask or remove, or repair none"
)


def fit(
    view: HeadModel,
    plan: PruningPlan,
    moments: Moments | None,
    *,
    batches: Iterable[Batch] | None = None,
    strict: bool = False,
) -> dict[int, Fit]:
    """Refit the output projection of every block that a plan removes heads from.

    The repair is the plan's; of `distill`, which trains the cut model afterwards (`distill_`), what
    it begins with. The model is not touched; `repaired` and `write_fits_` put the fits in. Blocks
    that lose no head are not listed. A block that loses every head gets its mean output as
    bias, over tokens weighted as in every fit, where the repair fits biases.

    Args:
        view: the dense model.
        plan: what is removed.
        moments: of the dense model; None if the repair needs none.
        batches: calibration data, which only `least_squares_sequential` needs.
        strict: refuse fewer calibration tokens than unknowns.

    Cost: algebra only, `width^3` per block; passes too for `least_squares_sequential`.

    Raises:
        UnknownNameError: there is no such repair.
        HeadError: the plan duplicates heads, or is for another model.
        ScoreError: there are no moments of a block that is to be repaired, they are singular, or a
            fit is not finite.
        DataError: the repair needs batches and there are none, or `strict` and tokens are scarce.
    """
    plan = without_training(plan)
    repair = REPAIRS[plan.repair]
    if repair.fit_block is None and repair.fit_plan is None:
        return {}
    if plan.action == "duplicate":
        raise HeadError(UNREPAIRABLE)
    plan.mask.check_shape(view.mask.counts)
    fits: dict[int, Fit] = {}
    if repair.fit_block is not None:
        for number in losing(view, plan):
            block = block_fit(view, number, plan, moments, own=repair.own > 0)
            fits[number] = checked(view, number, repair.fit_block, block)
    elif repair.fit_plan is not None:
        if batches is None:
            raise DataError(
                f"repair {plan.repair!r} runs the calibration data block by block, and got none;"
                " give batches, or choose repair least_squares"
            )
        fits = repair.fit_plan(view, plan, list(batches))
    if strict and repair_notes(fits):
        raise DataError(f"{repair_notes(fits)[0]}; or go on all the same without strict")
    return fits


def repair_notes(fits: Fits) -> list[str]:
    """Return what the user should know about fits: where they had fewer tokens than unknowns."""
    facts = {number: found.facts for number, found in fits.items()}
    scarce = [n for n, f in facts.items() if f.get("tokens", 0) < f.get("unknowns", 0)]
    if not scarce:
        return []
    few = min(scarce, key=lambda n: facts[n]["tokens"] / facts[n]["unknowns"])
    others = f" (and of {len(scarce) - 1} more)" if len(scarce) > 1 else ""
    return [
        f"the repair of block {few}{others} has {facts[few]['tokens']} calibration tokens for"
        f" {facts[few]['unknowns']} unknowns per output feature: it was shrunk towards the weights"
        f" as they are (ridge {facts[few]['ridge']:g}); give more calibration texts"
    ]


def own_notes(view: HeadModel, plan: PruningPlan, fits: Fits) -> list[str]:
    """Say whether a repair that was to keep to a second stream of text did."""
    share = own_share(plan.repair)
    if not fits or not share:
        return []
    tokens = max(found.facts.get("own_tokens", 0) for found in fits.values())
    of = "that the model wrote itself" if is_causal_lm(view.model) else "of texts that were joined"
    also = f"is fitted on {tokens:,} tokens {of} too, with {share:.0%} of the weight"
    alone = "is fitted on the calibration data alone, as there is no second text; judge it on other"
    return [f"the repair {also if tokens else f'{alone} data too'}"]


def losing(view: HeadModel, plan: PruningPlan) -> list[int]:
    """List the blocks that a plan removes heads from."""
    return [
        number
        for number, block in enumerate(view.blocks)
        if any(i not in plan.mask.kept_in(number) for i in block.original.heads)
    ]


def block_fit(
    view: HeadModel, number: int, plan: PruningPlan, moments: Moments | None, *, own: bool = False
) -> BlockFit:
    """Describe the fit of one block that loses heads; `own` says whether it uses `Moments.own`."""
    block = view.blocks[number]
    found = None if moments is None else moments.gradient_weighted[number]
    if found is None:
        raise ScoreError(f"nothing was seen of block {number} to repair it; give samples")
    dense = view.output_weight(number).cpu().double()
    bias = getattr(block.output, "bias", None)
    return BlockFit(
        dense=dense,
        cut=cut_weight(view, number, plan),
        bias=dense.new_zeros(len(dense)) if bias is None else bias.detach().cpu().double(),
        kept=kept_features(view, number, plan),
        moments=found,
        own=next(islice(moments.own(), number, None), None) if own and moments else None,
    )


def checked(view: HeadModel, number: int, fit_block: FitBlock, block: BlockFit) -> Fit:
    """Make a fit, and refuse one that is not finite."""
    name = f"block {number} ({view.blocks[number].name})"
    try:
        found = fit_block(block)
    except torch.linalg.LinAlgError as error:
        raise ScoreError(
            f"the moments of {name} are singular, so that it has no fit; give more calibration"
            " texts, or choose repair bias"
        ) from error
    numbers = (found.weight, *(() if found.bias is None else (found.bias,)))
    if not all(torch.isfinite(values).all() for values in numbers):
        raise ScoreError(
            f"the fit of {name} is not finite; give more calibration texts, or choose repair bias"
        )
    return found


def kept_features(view: HeadModel, number: int, plan: PruningPlan) -> Tensor:
    """Return the input features of a block's output projection that a plan keeps, ascending."""
    block = view.blocks[number]
    kept = [block.position(i) for i in plan.mask.kept_in(number) if i in block.original.heads]
    starts = torch.tensor(kept, dtype=torch.long) * block.head_dim
    return (starts[:, None] + torch.arange(block.head_dim)).reshape(-1)


def cut_weight(view: HeadModel, number: int, plan: PruningPlan) -> Tensor:
    """Return the weight that surgery alone would leave."""
    block = view.blocks[number]
    dense = view.output_weight(number).cpu().double().unflatten(1, (-1, block.head_dim))
    cut = dense.clone()
    for position, index in enumerate(block.original.heads):
        head = Head(number, index)
        if plan.mask.keeps(head):
            continue
        source = plan.copies.get(head) if plan.action in COPYING else None
        if source is not None:
            cut[:, block.position(source.index)] += dense[:, position]
        cut[:, position] = 0
    return cut.flatten(1)
