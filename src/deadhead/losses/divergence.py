"""How far a changed model is from the model as it was: `kl` where nothing is differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadhead.data.inputs import Batch, valid_tokens, without_empty
from deadhead.losses.losses import Loss, logits_of
from deadhead.moments.sums import HELD_OUT_EVERY


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
        counted = valid[:, : terms.shape[2]]
        total = terms.sum(-1).masked_fill(~counted, 0).sum(-1)  # (times, samples)
        return (total / counted.sum(-1).clamp(min=1).to(total.dtype)).flatten()

    return divergence


def preference_from(dense: Any, batch: Batch) -> Loss:
    """Make the loss of a causal model's choices: is the first or the second sentence likelier?

    Rows are the first sentences of some pairs, then their second ones. The choice is a softmax of
    the two log-likelihoods, and the loss `KL(dense || model)` of it, whichever of them is right.

    Shape: (batch / 2,). Unit: nats.
    """
    before = _margins(dense, batch)

    def divergence(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
        now = _margins(outputs, batch)
        first = before.sigmoid() * (F.logsigmoid(before) - F.logsigmoid(now))
        return first + (-before).sigmoid() * (F.logsigmoid(-before) - F.logsigmoid(-now))

    return divergence


def _margins(outputs: Any, batch: Batch) -> Tensor:
    """Return log-likelihoods of first sentences minus those of second ones; (pairs,), float64."""
    ids, valid = batch["input_ids"][:, 1:, None], valid_tokens(batch)[:, 1:]
    log_p = _by_token(outputs)[:, :-1].log_softmax(-1).gather(2, ids)[..., 0]
    first, second = (log_p.cpu().double() * valid.cpu()).sum(1).chunk(2)  # some lack float64
    return first - second


@dataclass(frozen=True)
class Probe:
    """A batch, and how far a changed model's answers to it are from the dense one's.

    Attributes:
        batch: the inputs.
        divergence: from the dense model's outputs and the batch to a loss in nats per answer.
    """

    batch: Batch
    divergence: Callable[[Any, Batch], Loss] = divergence_from


def held_out(batches: Iterable[Batch]) -> list[Probe]:
    """Return the samples of batches that moments hold out of a fit, as probes."""
    probes, seen = [], 0
    for batch in map(without_empty, batches):
        size = len(next(iter(batch.values())))
        rows = [i for i in range(size) if (seen + i) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
        seen += size
        if rows:
            probes.append(Probe({k: v[rows] if len(v) == size else v for k, v in batch.items()}))
    return probes


def _by_token(outputs: Any) -> Tensor:
    """Return logits as (samples, tokens, classes); one prediction a sample is one token."""
    logits = logits_of(outputs)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits[:, None] if logits.dim() == 2 else logits


def _has_head(outputs: Any) -> bool:
    return isinstance(outputs, Tensor) or hasattr(outputs, "logits")
