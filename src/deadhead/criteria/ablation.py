"""ablation: what the loss becomes without a head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deadhead.criteria.base import MaskLosses, by_head, register_criterion
from deadhead.errors import ScoreError
from deadhead.models.heads import HeadModel
from deadhead.types import HeadMask


@register_criterion("ablation", needs=("trials",), loss="task")
class Ablation:
    """Score heads by the mean over samples of `loss_i(without h) - loss_i(all heads)`.

    With a mask, `all` are the heads that it keeps. A head with a score below 0 does harm. The error
    of a whole mask is the mean loss under it, which `search` minimizes.

    Shape: one score per (block, head).
    Unit: of the loss (nats); higher = more important.
    Cost: one forward pass, and about half a forward pass per head: the layers from its block on.
    Source: leave-one-out, Michel, Levy, Neubig 2019 (arXiv 1905.10650), section 3.2. With
    `loss="kl"` the loss is the divergence from the model as it is given, which needs no labels.
    """

    def __init__(self, view: HeadModel):
        self.view = view
        self._scores: list[np.ndarray] = []
        self._trials: MaskLosses | None = None
        self._errors: dict[HeadMask, float] = {}

    def observe_trials(self, trials: MaskLosses) -> None:
        """Leave each head out."""
        self._trials = trials
        heads = trials.mask.heads
        whole, *without = trials.losses([trials.mask, *(trials.mask.drop(h) for h in heads)])
        harm = {head: loss - whole for head, loss in zip(heads, without, strict=True)}
        self._scores = by_head(self.view, harm)

    def scores(self) -> list[np.ndarray]:
        """Return the differences."""
        return self._scores

    def errors_of(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the mean losses under masks. Cost: a forward pass, and part of one per mask."""
        if self._trials is None:
            raise ScoreError("ablation has seen no data yet; score first")
        new = [mask for mask in dict.fromkeys(masks) if mask not in self._errors]
        if new:
            self._errors |= dict(zip(new, self._trials.losses(new).tolist(), strict=True))
        return [self._errors[mask] for mask in masks]
