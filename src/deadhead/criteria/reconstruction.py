"""reconstruction: what no other head of the block can make up for."""

from __future__ import annotations

import math

import numpy as np
import torch

from deadhead.criteria.base import register_criterion
from deadhead.errors import BudgetError, ScoreError, UnknownNameError
from deadhead.heads import HeadModel, output_rows
from deadhead.moments import Elimination, Moments
from deadhead.types import HeadMask

WEIGHTS = ("gradient", "none")
SMALLEST_RIDGE = 1e-9
ROUNDING = 1e-12  # variances below this share of the mean square are rounding errors


@register_criterion("reconstruction", needs=("moments", "output_gradients"), loss="kl")
class Reconstruction:
    """Score heads by the error that is left when the block's W_O is refitted without them.

    `trace(M W[h] inv(inv(C)[h,h]) W[h]^T)` with `C` the covariance of what enters the output
    projection, plus a ridge towards the weights as they are, and `W` refitted on the heads that are
    left. `M` is the second moment of the loss gradient at the block's output: an error counts as
    much as the loss feels it, so that blocks can be compared. With `weight=none` it is the plain
    squared error of the block's output. Heads that say the same are cheap one by one, and dear once
    all but one are gone: unlike other criteria it sees redundancy, and it scores what any mask
    leaves from the one pass over the dense model.

    Shape: one score per (block, head).
    Unit: squared loss per token (weight `none`: squared hidden state); higher = more important.
    Cost: one forward pass (one backward pass too with `weight=gradient`), then one inverse per
    block and `width^2 * head_dim` per dropped head.
    Source: optimal brain surgeon on heads (ZipLM, Kurtic et al. 2023, arXiv 2302.04089), with the
    Kronecker-factored Fisher of K-FAC (Martens & Grosse 2015, arXiv 1503.05671) as the metric.

    Args:
        view: the model.
        weight: `gradient` or `none`.
        ridge: as a fraction of the mean variance.

    Raises:
        UnknownNameError: another weight.
        BudgetError: a ridge that is too small, or infinite.
    """

    lasting = True  # one pass scores every mask

    def __init__(self, view: HeadModel, weight: str = "gradient", ridge: float = 0.01):
        if weight not in WEIGHTS:
            raise UnknownNameError(f"weight {weight!r} is not known; known: {', '.join(WEIGHTS)}")
        if not SMALLEST_RIDGE <= ridge < math.inf:
            raise BudgetError(
                f"ridge is {ridge}; give a fraction of the variance, as .01; below"
                f" {SMALLEST_RIDGE} it would not mend a singular covariance"
            )
        if weight == "none":
            self.needs, self.loss = frozenset({"moments"}), None
        self.view = view
        self.weighted = weight == "gradient"
        self.ridge = ridge
        self.moments: Moments | None = None
        self._states: dict[int, Elimination] = {}
        self._wholes: dict[int, Elimination] = {}

    def scores(self) -> list[np.ndarray]:
        """Return the scores of the dense model's heads."""
        return self.scores_of(self.view.mask)

    def scores_of(self, mask: HeadMask) -> list[np.ndarray]:
        """Return the scores of the heads that a mask leaves; NaN for the others."""
        rows = []
        for number, block in enumerate(self.view.blocks):
            row = np.full(block.n_heads, np.nan)
            kept = [block.position(i) for i in mask.kept_in(number) if i in block.held.heads]
            if kept:
                for position, error in self._state(number, kept).errors().items():
                    row[position] = error
            rows.append(row)
        return rows

    def gains_of(self, mask: HeadMask) -> list[np.ndarray]:
        """Return what taking back each head that a mask drops would save; NaN for the others."""
        rows = []
        for number, block in enumerate(self.view.blocks):
            row = np.full(block.n_heads, np.nan)
            kept = mask.kept_in(number)
            gone = [p for p, i in enumerate(block.held.heads) if i not in kept]
            if gone:
                for position, gain in self._whole(number).gains(gone).items():
                    row[position] = gain
            rows.append(row)
        return rows

    def error_of(self, mask: HeadMask) -> float:
        """Return the error of everything that a mask drops, each block refitted."""
        error = 0.0
        for number, block in enumerate(self.view.blocks):
            kept = mask.kept_in(number)
            gone = [p for p, i in enumerate(block.held.heads) if i not in kept]
            error += self._whole(number).error(gone) if gone else 0.0
        return error

    def _whole(self, number: int) -> Elimination:
        if number not in self._wholes:
            self._wholes[number] = self._begin(number)
        return self._wholes[number]

    def _state(self, number: int, kept: list[int]) -> Elimination:
        """Return the block with `kept` left: the state of last time, unless a head came back."""
        state = self._states.get(number)
        if state is None or not set(kept) <= set(state.left):
            state = self._states[number] = self._begin(number)
        gone = [h for h in state.left if h not in kept]
        if gone:
            state.drop(gone)
        return state

    def _begin(self, number: int) -> Elimination:
        block = self.view.blocks[number]
        if self.moments is None:
            raise ScoreError("reconstruction has seen no data; score with calibration batches")
        moments = (self.moments.felt if self.weighted else self.moments.blocks)[number]
        if moments is None:
            raise ScoreError(f"reconstruction saw nothing of block {number}; give calibration data")
        covariance = moments.covariance
        variance = float(covariance.diagonal().mean())
        if not variance > ROUNDING * float(moments.mean.square().mean()):
            raise ScoreError(
                f"the heads of block {number} put out the same for every token: there is nothing to"
                " reconstruct; give more and longer samples, or choose another criterion"
            )
        ridged = covariance + self.ridge * variance * torch.eye(len(covariance)).to(covariance)
        metric = self.moments.gradient[number] if self.weighted else None
        weight = output_rows(block.output).detach().cpu().double()
        return Elimination(ridged, weight, block.head_dim, metric)
