"""confidence: how much of its attention a head gives to one token."""

from __future__ import annotations

from torch import Tensor

from deadhead.criteria.base import MeanCriterion, keys_seen, register_criterion


@register_criterion("confidence", needs=("maps",))
class Confidence(MeanCriterion):
    """Score heads by the largest attention weight of a query, mean over queries.

    Mean over samples of the mean over their valid queries. A query that sees one key only has no
    choice (its weight is 1 in every head) and does not count.

    Shape: one score per (block, head); shared blocks: mean over their applications.
    Unit: fraction in [0, 1]; higher = more important.
    Cost: one forward pass; a chunk of one block's attention maps in memory at a time.
    Source: Voita et al. 2019 (arXiv 1905.09418), section 4, who leave the end-of-sentence token out
    of the maximum; we leave nothing out but padding.
    """

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
        counted = valid[rows] & (keys_seen(valid[rows], visible) > 1)
        self.add_queries(block, maps.amax(-1), counted, batch)
