"""confidence: how much of its attention a head gives to one token."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from deadhead.criteria.base import SampleMean, register_criterion
from deadhead.models.heads import HeadModel


@register_criterion("confidence", needs=("maps",))
class Confidence:
    """Score heads by the largest attention weight of a query, mean over queries.

    Mean over samples of the mean over their valid queries. A query that sees one key only has no
    choice (its weight is 1 in every head) and does not count.

    Shape: one score per (block, head); shared blocks: mean over their applications.
    Unit: fraction in [0, 1]; higher = more important.
    Cost: one forward pass; a chunk of one block's attention maps in memory at a time.
    Source: Voita et al. 2019 (arXiv 1905.09418), section 4, who leave the end-of-sentence token out
    of the maximum; we leave nothing out but padding.
    """

    def __init__(self, view: HeadModel):
        self.mean = SampleMean(view, "confidence")

    def observe_maps(
        self,
        block: int,
        rows: slice,
        maps: Tensor,
        visible: Tensor | None,
        valid: Tensor,
        batch: int,
    ) -> None:
        """Add some samples of one block; `valid` is (samples of the batch, tokens)."""
        counts = valid[rows]
        keys = counts.sum(1)[:, None] if visible is None else visible[:, 0].sum(-1)
        counts = counts & (keys > 1)
        weight = counts[:, None].to(maps.dtype)
        queries = weight.sum(-1)
        seen = queries[:, 0] > 0
        mean = maps.amax(-1).masked_fill(weight == 0, 0).sum(-1) / queries.clamp(min=1)
        self.mean.add(block, mean[seen], batch)

    def scores(self) -> list[np.ndarray]:
        """Return the means."""
        return self.mean.value()
