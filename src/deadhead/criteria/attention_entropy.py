"""attention_entropy: how focused a head's attention is."""

from __future__ import annotations

import torch
from torch import Tensor

from deadhead.criteria.base import MeanCriterion, keys_seen, register_criterion
from deadhead.models.heads import HeadModel


@register_criterion("attention_entropy", needs=("maps",))
class AttentionEntropy(MeanCriterion):
    """Score heads by minus the mean entropy of their attention rows.

    Shape: one score per (block, head); shared blocks: mean over their applications.
    Unit: minus nats per query, so that higher = more focused = more important. With `normalized`,
    minus the fraction of log(number of keys that the query can see), in [-1, 0], which makes
    causal positions comparable; queries that see one key only do not count.
    Cost: one forward pass; a chunk of one block's attention maps in memory at a time.
    Source: the "AE" baseline of Greedy-Gnorm (arXiv 2602.04491), highest entropy removed first.
    We take 0 log 0 = 0 exactly and leave padding out. The other direction is `inverse`.
    """

    def __init__(self, view: HeadModel, normalized: bool = False):
        self.normalized = normalized
        super().__init__(view)

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
        entropy = -torch.special.xlogy(maps, maps).sum(-1)  # (rows, heads, query)
        counted = valid[rows]
        if self.normalized:
            keys = keys_seen(counted, visible)
            counted = counted & (keys > 1)
            entropy = entropy / keys.clamp(min=2).to(entropy.dtype).log()[:, None]
        self.add_queries(block, -entropy, counted, batch)
