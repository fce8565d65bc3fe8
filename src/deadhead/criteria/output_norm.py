"""output_norm: how much a head adds to its block's output."""

from __future__ import annotations

import torch
from torch import Tensor

from deadhead.criteria.base import MeanCriterion, register_criterion
from deadhead.models.heads import HeadModel


@register_criterion("output_norm", needs=("heads",))
class OutputNorm(MeanCriterion):
    """Score heads by the mean norm of what they add: `z[h] @ W_O[h].T`.

    Mean over samples of the mean over their valid tokens.

    Shape: one score per (block, head); shared blocks: mean over their applications.
    Unit: of the hidden state; higher = more important.
    Cost: one forward pass; `tokens * head_dim^2` per head (norms are taken from the Gram matrix
    of the head's slice of W_O).
    Source: Kobayashi et al. 2020 (arXiv 2004.10102), summed over what a head attends to.
    """

    def __init__(self, view: HeadModel):
        super().__init__(view)
        self.grams: list[Tensor] = []
        for number, block in enumerate(view.blocks):
            slices = _wide(view.output_weight(number)).unflatten(1, (-1, block.head_dim))
            heads = slices.permute(1, 0, 2)  # (heads, hidden, head_dim)
            self.grams.append(heads.transpose(1, 2) @ heads)

    def observe_heads(self, block: int, z: Tensor, valid: Tensor, batch: int) -> None:
        """Add one application of one block."""
        z = _wide(z)
        projected = (z.transpose(1, 2) @ self.grams[block]).transpose(1, 2)
        norms = (projected * z).sum(-1).clamp(min=0).sqrt()  # (samples, tokens, heads)
        norms = norms.masked_fill(~valid[..., None], 0)
        tokens = valid.sum(1)[:, None].clamp(min=1).to(norms.dtype)
        self.mean.add(block, norms.sum(1) / tokens, batch)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))  # half precision overflows
