"""least_squares_sequential: each block refitted to what the repaired blocks before it put in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.data.inputs import Batch, call, ready, valid_tokens
from deadhead.errors import DataError
from deadhead.models.heads import HeadModel
from deadhead.moments import BlockMoments, MomentSums
from deadhead.repair.base import BlockFit, Fit, Fits, register_data_repair
from deadhead.repair.fitting import checked, cut_weight, kept_features, losing
from deadhead.repair.least_squares import least_squares
from deadhead.repair.write import repaired
from deadhead.types import HeadMask, PruningPlan


@register_data_repair("least_squares_sequential")
def least_squares_sequential(
    view: HeadModel, plan: PruningPlan, batches: Sequence[Batch]
) -> dict[int, Fit]:
    """Refit blocks in order, each to the dense block's output, on what now enters it.

    `argmin E|y - W' x_kept - b'|^2 + ridge |W' - W_cut|^2`: `y` is what the block puts out in the
    dense model, `x` what enters its projection once the blocks before it are cut and repaired.
    Ridge and bias as of `least_squares`, but every token counts the same. A block that is applied
    several times (ALBERT) is fitted to all its applications, with itself still dense.
    In our trials no better than `least_squares`, which needs no passes of its own.

    Cost: two forward passes over the data per block that loses heads, and its solves. Memory: two
    (width + hidden, width + hidden) matrices, whatever the number of samples.
    Source: layer by layer as in SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774).

    Raises:
        DataError: there are no batches.
        ScoreError: activations or a fit are not finite.
    """
    fits: dict[int, Fit] = {}
    for number in losing(view, plan):
        moments = _moments(view, number, plan.mask, fits, batches)
        cut = cut_weight(view, number, plan)
        hidden, width = cut.shape
        behind = cut.new_zeros(hidden, hidden)  # the features of y in (x, y)
        block = BlockFit(
            dense=torch.cat([torch.zeros_like(cut), torch.eye(hidden, dtype=cut.dtype)], dim=1),
            cut=torch.cat([cut, behind], dim=1),
            bias=cut.new_zeros(hidden),  # y has it
            kept=kept_features(view, number, plan),
            moments=moments,
            inputs=width,
        )
        found = checked(view, number, least_squares, block)
        fits[number] = Fit(found.weight[:, :width], found.bias, found.facts)
    return fits


def _moments(
    view: HeadModel, number: int, mask: HeadMask, fits: Fits, batches: Sequence[Batch]
) -> BlockMoments:
    """Return the moments of (what enters a block's projection now, what it puts out if dense)."""
    before = HeadMask((*mask.kept[:number], *view.mask.kept[number:]))
    sums = MomentSums(view)
    with view.at_rest(), torch.no_grad():
        for at, inputs in enumerate(ready(view.model, batches)):
            dense = _applications(view, number, inputs)
            with repaired(view, before, fits):
                now = _applications(view, number, inputs)
            for (x, _), (_, y) in zip(now, dense, strict=True):
                joint = torch.cat([x, y], dim=-1)[:, :, None]  # (batch, tokens, 1, width + hidden)
                sums.observe_heads(number, joint, valid_tokens(inputs), at)
    found = sums.value().blocks[number]
    if found is None:
        raise DataError("there are no calibration samples; give at least one batch")
    return found


def _applications(view: HeadModel, number: int, inputs: Batch) -> list[tuple[Tensor, Tensor]]:
    """Run the model; return what enters and leaves a block's projection at each application."""
    found: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        found.append((args[0], output))

    handle = view.blocks[number].output.register_forward_hook(keep)
    try:
        with view.hook_heads(lambda number, z: None, [number]):  # refuses a pass that bypasses it
            call(view.model, inputs)
    finally:
        handle.remove()
    return found
