"""ablation: what the loss becomes without a head."""

from __future__ import annotations

import numpy as np

from deadhead.criteria.base import register_criterion
from deadhead.criteria.trials import Trials
from deadhead.heads import HeadModel


@register_criterion("ablation", needs=("trials",), loss="task")
class Ablation:
    """Score heads by the mean over samples of `loss_i(without h) - loss_i(all heads)`.

    With a mask, `all` are the heads that it keeps. Scores below 0 are heads that do harm.

    Shape: one score per (block, head).
    Unit: of the loss (nats); higher = more important.
    Cost: one forward pass, and per head of block `l` of `L` the layers from `l` on: about half a
    forward pass per head. Padding is not computed.
    Source: leave-one-out, Michel, Levy, Neubig 2019 (arXiv 1905.10650), section 3.2. With
    `loss="kl"` the loss is the divergence from the model as it is given, which needs no labels.
    """

    def __init__(self, view: HeadModel):
        self.view = view
        self._scores: list[np.ndarray] = []

    def observe_trials(self, trials: Trials) -> None:
        """Leave each head out."""
        heads = trials.mask.heads
        whole, *without = trials.losses([trials.mask, *(trials.mask.drop(h) for h in heads)])
        self._scores = [np.full(block.n_heads, np.nan) for block in self.view.blocks]
        for head, loss in zip(heads, without, strict=True):
            self._scores[head.block][self.view.blocks[head.block].position(head.index)] = (
                loss - whole
            )

    def scores(self) -> list[np.ndarray]:
        """Return the differences."""
        return self._scores
