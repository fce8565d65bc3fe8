"""The repairs bias, least_squares and least_squares_sequential."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.data.batches import Batch, call, ready
from deadhead.data.inputs import samples_in, valid_within
from deadhead.errors import DataError
from deadhead.models.heads import HeadModel
from deadhead.models.observation import by_row
from deadhead.moments import BlockMoments, MomentSums
from deadhead.repair.base import BlockFit, Fit, Fits, register_data_repair, register_repair
from deadhead.repair.fits import checked, cut_weight, kept_features, losing
from deadhead.repair.write import repaired
from deadhead.types import HeadMask, PruningPlan


@register_repair("bias")
def bias(block: BlockFit) -> Fit:
    """Keep the block's mean output: `b + (W - W_cut) E[x]`. Weights stay as surgery leaves them.

    Cost: one product. Source: FLAP (An et al. 2024, arXiv 2312.11983), eq. 8.
    """
    return Fit(block.cut, block.bias + (block.dense - block.cut) @ block.moments.mean)


RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
MORE_RIDGES = (3.0, 10.0, 100.0)  # for fewer tokens than unknowns
TOLERANCE = 1.05
ROUNDING = 1e-10  # variances below this share of the mean square are rounding errors


@register_repair("least_squares")
def least_squares(block: BlockFit, own: float = 0.3, bias: bool = False) -> Fit:
    """Refit the weight to the dense block's output, with a ridge towards the cut weights.

    `argmin E|W x + b - W' x_kept - b'|^2 + ridge |W' - W_cut|^2`. `own` is the share of the mean
    that goes to text that the model makes itself (see `scoring.own_text`): the calibration texts
    alone leave most directions of `x` without variance, where the fit is free to do anything to
    other text. The bias stays as it is (`b' = b`), and a projection without one gets none, unless
    `bias` asks for a refit of it too, which is exact for calibration texts and wrong for others.
    Where gradients were taken, half of a token's weight in the mean of the calibration texts is its
    share of the squared loss gradient. The ridge, a fraction
    of the mean variance of `x`, is the smallest of `RIDGES` whose fit on three quarters of the
    samples has an error on the rest within 5% of the best one's: what a ridge leaves out adds up
    over blocks, what it saves in noise does not. The fit itself is made on all samples. With fewer
    tokens than unknowns per output feature, `MORE_RIDGES` shrink further.

    Cost: a solve of `kept^3` per ridge. Float64. Source: METHODS, as in ZipLM (arXiv 2302.04089)
    and SliceGPT; text of the model's own as in self-calibration (Williams et al. 2024, arXiv
    2410.17170); the mixture and the ridge are ours.
    """
    facts: dict[str, Any] = {}
    if block.own is not None and own:
        facts = {"own": own, "own_tokens": round(sum(block.own.tokens))}
        block = replace(block, moments=block.moments.mixed(block.own, own))
    moments, kept = block.moments, block.kept
    weight = torch.zeros_like(block.dense)
    if len(kept):
        about_mean = moments if bias else moments.about_zero
        ridge, held_out = _ridge(replace(block, moments=about_mean))
        weight = _fit(block, about_mean.covariance, ridge)
        before, after = (
            _error(block.dense - w, about_mean.covariance) for w in (block.cut, weight)
        )
        facts |= {"ridge": ridge, "error_before": before, "error_after": after}
        facts |= {"held_out": held_out, "tokens": block.tokens, "unknowns": len(kept)}
    return Fit(weight, block.bias + (block.dense - weight) @ moments.mean if bias else None, facts)


def _ridge(block: BlockFit) -> tuple[float, float | None]:
    """Choose the ridge on held-out samples; (ridge, its error there)."""
    if min(block.moments.tokens) < 2:  # too few to hold any out
        return RIDGES[-1 if block.scarce else len(RIDGES) // 2], None
    ridges = (*RIDGES, *MORE_RIDGES) if block.scarce else RIDGES
    _, fitting = block.moments.fold(0)
    _, held_out = block.moments.fold(1)
    errors = {r: _error(block.dense - _fit(block, fitting, r), held_out) for r in ridges}
    best = min(errors.values())
    ridge = next((r for r in ridges if errors[r] <= TOLERANCE * best), ridges[-1])
    return ridge, errors[ridge]


def _fit(block: BlockFit, covariance: Tensor, ridge: float) -> Tensor:
    """Return the weight of the smallest ridged error, zero where heads go."""
    kept = block.kept
    noise = ROUNDING * float(block.moments.mean[: block.inputs].square().mean()) + 1e-100
    amount = ridge * covariance.diagonal()[: block.inputs].mean().clamp(min=noise)
    left = covariance[kept][:, kept] + amount * torch.eye(len(kept), dtype=covariance.dtype)
    # solved for the change from the cut weights, so that nothing to make up for changes nothing
    wanted = (block.dense - block.cut) @ covariance[:, kept]
    weight = block.cut.clone()
    weight[:, kept] += torch.linalg.solve(left, wanted.T).T
    return weight


def _error(change: Tensor, covariance: Tensor) -> float:
    """Return the mean squared error of the block's output, per feature; rounding is no error."""
    return max(0.0, float(((change @ covariance) * change).sum() / len(change)))


@register_data_repair("least_squares_sequential")
def least_squares_sequential(
    view: HeadModel, plan: PruningPlan, batches: Sequence[Batch]
) -> dict[int, Fit]:
    """Refit blocks in order, each to the dense block's output, on what now enters it.

    `argmin E|y - W' x_kept - b'|^2 + ridge |W' - W_cut|^2`: `y` is what the block puts out in the
    dense model, `x` what enters its projection once the blocks before it are cut and repaired.
    Ridge as of `least_squares`; the bias is refitted, and every token counts the same. A block that
    is applied several times (ALBERT) is fitted to all its applications, with itself still dense.
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
        found = checked(view, number, partial(least_squares, bias=True), block)
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
            sums.begin(samples_in(inputs), at)
            dense = _applications(view, number, inputs)
            with repaired(view, before, fits):
                now = _applications(view, number, inputs)
            for (x, _), (_, y) in zip(now, dense, strict=True):
                joint = torch.cat([x, y], dim=-1)[:, :, None]  # (batch, tokens, 1, width + hidden)
                stack, shape = view.blocks[number].record.stack, (len(x), x.shape[1])
                sums.observe_heads(
                    number, joint, valid_within(view.model, inputs, shape, stack), at
                )
    found = sums.value().blocks[number]
    if found is None:
        raise DataError("there are no calibration samples; give at least one batch")
    return found


def _applications(view: HeadModel, number: int, inputs: Batch) -> list[tuple[Tensor, Tensor]]:
    """Run the model; return what enters and leaves a block's projection at each application."""
    found: list[tuple[Tensor, Tensor]] = []
    block = view.blocks[number]

    def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        found.append((by_row(args[0], block), by_row(output, block)))

    handle = view.blocks[number].output.register_forward_hook(keep)
    try:
        with view.hook_heads(lambda number, z: None, [number]):  # refuses a pass that bypasses it
            call(view.model, inputs)
    finally:
        handle.remove()
    return found
