"""How far a changed model is from the model as it was: `kl` where nothing is differentiated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deadhead.criteria.inputs import Batch, valid_tokens
from deadhead.criteria.losses import Loss, logits_of


def divergence_from(dense: Any, batch: Batch) -> Loss:
    """Make the loss `KL(dense || model)` of a batch, or of the same batch several times over.

    One logit, or the last hidden state of a model without a head, is taken for the mean of
    Gaussians of variance 1: half a squared distance.

    Shape: (batch,) or (times * batch,): mean over a sample's real tokens.
    Unit: nats.
    """
    reference, valid = _by_token(dense), valid_tokens(batch)
    gaussian = reference.shape[-1] == 1 or not _has_head(dense)
    before = reference if gaussian else reference.log_softmax(-1)

    def divergence(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
        found = _by_token(outputs)
        now = found if gaussian else found.log_softmax(-1)
        now = now.unflatten(0, (-1, len(before)))  # (times, samples, tokens, classes)
        if gaussian:
            terms = (now - before) ** 2 / 2
        else:
            terms = (before.exp() * (before - now)).masked_fill(before == -torch.inf, 0)
        counted = valid[:, : terms.shape[2]].to(terms.dtype)
        return ((terms.sum(-1) * counted).sum(-1) / counted.sum(-1).clamp(min=1)).flatten()

    return divergence


def _by_token(outputs: Any) -> Tensor:
    """Return logits as (samples, tokens, classes); one prediction a sample is one token."""
    logits = logits_of(outputs)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits[:, None] if logits.dim() == 2 else logits


def _has_head(outputs: Any) -> bool:
    return isinstance(outputs, Tensor) or hasattr(outputs, "logits")
