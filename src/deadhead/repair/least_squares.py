"""least_squares: the output projection refitted on the heads that stay."""

from __future__ import annotations

import torch
from torch import Tensor

from deadhead.repair.base import BlockFit, Fit, register_repair

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
MORE_RIDGES = (3.0, 10.0, 100.0)  # for fewer tokens than unknowns
TOLERANCE = 1.05
ROUNDING = 1e-10  # variances below this share of the mean square are rounding errors


@register_repair("least_squares")
def least_squares(block: BlockFit) -> Fit:
    """Refit weight and bias to the dense block's output, with a ridge towards the cut weights.

    `argmin E|W x + b - W' x_kept - b'|^2 + ridge |W' - W_cut|^2`. Where gradients were taken, half
    of a token's weight in the mean is its share of the squared loss gradient. The ridge, a fraction
    of the mean variance of `x`, is the smallest of `RIDGES` whose fit on three quarters of the
    samples has an error on the rest within 5% of the best one's: what a ridge leaves out is the
    same for every token and adds up over blocks, what it saves in noise is not and does not. The
    fit itself is then made on all samples. With fewer tokens than unknowns per output feature,
    `MORE_RIDGES` shrink further.

    Cost: a solve of `kept^3` per ridge. Float64. Source: METHODS, as in ZipLM (arXiv 2302.04089)
    and SliceGPT; the ridge and the bias are ours.
    """
    moments, kept = block.moments, block.kept
    if not len(kept):
        return Fit(torch.zeros_like(block.dense), block.bias + block.dense @ moments.mean)
    ridge, held_out = _ridge(block)
    weight = _fit(block, moments.covariance, ridge)
    before, after = (_error(block.dense - w, moments.covariance) for w in (block.cut, weight))
    facts = {"ridge": ridge, "error_before": before, "error_after": after, "held_out": held_out}
    facts |= {"tokens": block.tokens, "unknowns": len(kept)}
    return Fit(weight, block.bias + (block.dense - weight) @ moments.mean, facts)


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
