"""Token sequences under a causal language model: ids with a start, and their log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from deadhead.data.batching import Packed, cannot_judge, evaluating
from deadhead.errors import DataError
from deadhead.models.purpose import purpose_of

# logits upcast and reduced at once, in numbers; bounds the memory beside the logits themselves
_REDUCED_AT_ONCE = 2**25


def refuse_other_models(config, kind: str) -> None:
    """Refuse a config of a model that is not a causal language model."""
    if purpose_of(config) not in ("causal_lm", "other", "unknown"):
        raise DataError(
            f"task kind {kind!r} does not fit {config.architectures[0]!r}: it needs a causal"
            " language model; use kind 'classification' or a ...ForCausalLM model"
        )


def sequence_losses(
    model: nn.Module, packed: Sequence[Packed], n: int, *, name: str = ""
) -> torch.Tensor:
    """Sum the negative log-likelihood of each sequence's tokens, given those before.

    Shape: (sequences,), float64, on the CPU, in the order of the sequences before packing.
    Unit: nats.
    Cost: one forward pass per batch; one batch's logits in memory at a time.
    """
    losses = torch.zeros(n, dtype=torch.float64)
    with evaluating(model) as logits:
        for number, p in enumerate(packed):
            values = _row_losses(logits(p.batch), p.batch["labels"])
            if values.isnan().any():
                raise cannot_judge(name, number, len(packed))
            losses[torch.from_numpy(p.rows)] = values
    return losses


def _row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    labels = labels.to(logits.device)
    batch, tokens, vocabulary = logits.shape
    # the logits at a token predict the next one; the last predicts nothing
    targets = torch.full_like(labels, -100)
    targets[:, :-1] = labels[:, 1:]
    flat, targets = logits.reshape(-1, vocabulary), targets.reshape(-1)
    at_once = max(1, _REDUCED_AT_ONCE // vocabulary)
    parts = []
    for scores, ids in zip(flat.split(at_once), targets.split(at_once), strict=True):
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        picked = scores.gather(1, ids.clamp(min=0)[:, None])[:, 0]
        total = scores.logsumexp(1)
        # a token of no probability has an infinite loss; a sum of infinities says nothing: NaN
        parts.append((total - picked).masked_fill(~total.isfinite(), math.nan))
        parts[-1].masked_fill_(ids == -100, 0.0)  # not a product: padding may hold infinities
    # summed in float64: a window has up to thousands of terms
    return torch.cat(parts).view(batch, tokens).cpu().double().sum(1)
