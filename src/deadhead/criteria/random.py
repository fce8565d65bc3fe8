"""random: the baseline for every other criterion."""

from __future__ import annotations

import numpy as np

from deadhead.criteria.base import register_criterion
from deadhead.models.heads import HeadModel


@register_criterion("random", in_all=False)
class Random:
    """Score heads by a uniform draw.

    Shape: one score per (block, head). Unit: none; in [0, 1).
    Cost: nothing. A seed gives the same scores for the same original heads, whatever has been cut.
    Source: baseline; report at least 20 draws with an interval.
    """

    def __init__(self, view: HeadModel, seed: int = 0):
        generator = np.random.default_rng(seed)
        draws = [generator.random(block.original.n_heads) for block in view.blocks]
        self.draws = [d[list(b.original.heads)] for d, b in zip(draws, view.blocks, strict=True)]

    def scores(self) -> list[np.ndarray]:
        """Return the draws."""
        return self.draws
