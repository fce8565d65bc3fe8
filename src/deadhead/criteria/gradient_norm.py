"""gradient_norm: the product of the norms of the gradients on a head's Q, K and V weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deadhead.criteria.base import SampleMean, register_criterion
from deadhead.errors import check_name
from deadhead.models.architectures import PARTS
from deadhead.models.heads import HeadModel
from deadhead.models.observation import Observation, Projected

REDUCTIONS = ("sample", "batch")


@register_criterion("gradient_norm", needs=("projections",), loss="logit_norm")
class GradientNorm:
    """Score heads by `mean(G_Q) * mean(G_K) * mean(G_V)`, as the sum of logs.

    `G_P` is the norm of the loss gradient on the head's rows of W_P. Ranks by
    `log mean(G_Q) + log mean(G_K) + log mean(G_V)`: the product itself underflows. A gradient of
    zero gives -inf, the least important. Query heads that share a key/value head share G_K, G_V.

    Shape: one score per (block, head).
    Unit: log of a product of gradient norms; higher = more important.
    Cost: one forward and one backward pass per batch for all blocks (gradients of activations
    only), and `4 * tokens^2 * hidden` per sample and block.
    Source: Greedy-Gnorm, arXiv 2602.04491. We take norms per sample; `reduction="batch"` takes
    one norm of the whole batch's logits and summed gradient, as published, which depends on the
    batch size.
    """

    def __init__(self, view: HeadModel, reduction: str = "sample"):
        check_name("reduction", reduction, REDUCTIONS)
        self.view, self.reduction = view, reduction
        self.means = {part: SampleMean(view, f"gradient_norm ({part})") for part in PARTS}

    def observe(self, seen: Observation) -> None:
        """Add one batch."""
        for number, projected in enumerate(seen.projected):
            if projected is None:
                continue
            norms = weight_gradient_norms(projected, summed=self.reduction == "batch")
            times = self.view.blocks[number].shape.group_size
            for part, mean in self.means.items():
                query = part == "query"
                each = norms[part] if query else norms[part].repeat_interleave(times, dim=1)
                mean.add(number, each, seen.batch)

    def scores(self) -> list[np.ndarray]:
        """Return the sums of logs."""
        with np.errstate(divide="ignore"):
            logs = [[np.log(m) for m in mean.value()] for mean in self.means.values()]
        return [q + k + v for q, k, v in zip(*logs, strict=True)]


def weight_gradient_norms(projected: Projected, *, summed: bool = False) -> dict[str, Tensor]:
    """Return the norms of the gradients on each head's rows of W_Q, W_K, W_V.

    Shape: per part (samples, heads of that part); with `summed`, (1, heads): the norm of the
    gradient summed over the batch.
    Cost: per sample `tokens^2 * hidden` from `sum_ts <x_t, x_s> <d_t, d_s>`, in float64 since the
    sum cancels; for sequences longer than hidden, the weight gradient itself.
    """
    wide = torch.float32 if projected.inputs.device.type == "mps" else torch.float64
    source = projected.inputs if projected.source is None else projected.source
    alike = {"query": projected.query}, {"key": projected.key, "value": projected.value}
    groups = [(projected.inputs, alike[0]), (source, alike[1])]
    if source is projected.inputs:
        groups = [(source, alike[0] | alike[1])]
    norms: dict[str, Tensor] = {}
    for inputs, parts in groups:
        x = inputs.to(wide)
        if summed:
            x, parts = x.flatten(0, 1)[None], {p: d.flatten(0, 1)[None] for p, d in parts.items()}
        if summed or x.shape[1] > x.shape[2]:
            norms |= {p: _direct(x, d) for p, d in parts.items()}
        else:
            gram = x @ x.transpose(1, 2)  # (samples, tokens, tokens)
            norms |= {p: _from_gram(gram, d.to(wide)) for p, d in parts.items()}
    return norms


def _from_gram(gram: Tensor, d: Tensor) -> Tensor:
    flat = d.flatten(2)  # (samples, tokens, heads * head_dim)
    squared = (flat * (gram @ flat)).sum(1).unflatten(-1, d.shape[2:]).sum(-1)
    return squared.clamp(min=0).sqrt()


def _direct(x: Tensor, d: Tensor) -> Tensor:
    gradient = d.to(x.dtype).flatten(2).transpose(1, 2) @ x  # (samples, heads * head_dim, hidden)
    return gradient.unflatten(1, d.shape[2:]).flatten(2).norm(dim=-1)
