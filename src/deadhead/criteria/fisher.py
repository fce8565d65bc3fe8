"""fisher: the curvature of the loss along a head's gate."""

from __future__ import annotations

from deadhead.criteria.base import MeanCriterion, register_criterion
from deadhead.models.observation import Observation


@register_criterion("fisher", needs=("gates",), loss="task")
class Fisher(MeanCriterion):
    """Score heads by the mean over samples of `(dLoss_i / dg_i)^2`.

    Shape: one score per (block, head).
    Unit: squared loss (nats^2) per unit of gate; higher = more important.
    Cost: one forward and one backward pass per batch, shared with other gradient criteria.
    Source: Kwon et al. 2022 (arXiv 2204.09656), the diagonal of the Fisher matrix of the gates.
    With `loss="kl"` labels are the model's own draws: the true Fisher information, without labels.
    """

    def observe(self, seen: Observation) -> None:
        """Add one batch."""
        for block, gradient in enumerate(seen.gate_gradients):
            self.mean.add(block, gradient.cpu().double() ** 2, seen.batch)  # floats underflow
