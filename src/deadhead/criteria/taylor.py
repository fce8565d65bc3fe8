"""taylor: the slope of the loss along a head's gate."""

from __future__ import annotations

from deadhead.criteria.base import MeanCriterion, register_criterion
from deadhead.models.observation import Observation


@register_criterion("taylor", needs=("gates",), loss="task")
class Taylor(MeanCriterion):
    """Score heads by the mean over samples of `abs(dLoss_i / dg_i)`.

    Shape: one score per (block, head).
    Unit: loss (nats) per unit of gate; higher = more important.
    Cost: one forward and one backward pass per batch, shared with other gradient criteria.
    Source: Michel, Levy, Neubig 2019 (arXiv 1905.10650), eq. 2. Gates are per sample, so that the
    score does not depend on the batch size.
    """

    def observe(self, seen: Observation) -> None:
        """Add one batch."""
        for block, gradient in enumerate(seen.gate_gradients):
            self.mean.add(block, gradient.abs(), seen.batch)
