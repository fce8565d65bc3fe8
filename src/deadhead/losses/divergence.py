"""How far a changed model is from the model as it was: `kl` where nothing is differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadhead.data.inputs import Batch, samples_in, take_samples, valid_tokens, without_empty
from deadhead.display import Brief
from deadhead.losses.answers import answers_of, logits_of, widened
from deadhead.losses.losses import Loss
from deadhead.moments.sums import HELD_OUT_EVERY


def divergence_from(model: nn.Module, dense: Any, batch: Batch) -> Loss:
    """Make the loss `KL(dense || model)` of a batch, or of the same batch several times over.

    Of numbers (see `Answers`) it is half a squared distance.

    Shape: (batch,) or (times * batch,): mean over a sample's answers that count.
    Unit: nats.
    """
    reference, valid, numbers = answers_of(model, dense, batch)
    before = reference if numbers else reference.log_softmax(-1)

    def divergence(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
        found = answers_of(model, outputs, batch).logits
        now = found if numbers else found.log_softmax(-1)
        now = now.unflatten(0, (-1, len(before)))  # (times, samples, answers, classes)
        if numbers:
            terms = (now - before) ** 2 / 2
        else:
            terms = (before.exp() * (before - now)).masked_fill(before == -torch.inf, 0)
        total = terms.sum(-1).masked_fill(~valid, 0).sum(-1)  # (times, samples)
        return (total / valid.sum(-1).clamp(min=1).to(total.dtype)).flatten()

    return divergence


def preference_from(model: nn.Module, dense: Any, batch: Batch) -> Loss:
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
    log_p = widened(logits_of(outputs))[:, :-1].log_softmax(-1).gather(2, ids)[..., 0]
    first, second = (log_p.cpu().double() * valid.cpu()).sum(1).chunk(2)  # some lack float64
    return first - second


@dataclass(frozen=True, repr=False)
class Probe(Brief):
    """A batch, and how far a changed model's answers to it are from the dense one's.

    Attributes:
        batch: the inputs.
        divergence: from a model, the dense model's outputs and the batch to a loss in nats per
            answer.
    """

    batch: Batch
    divergence: Callable[[nn.Module, Any, Batch], Loss] = divergence_from


def held_out(batches: Iterable[Batch]) -> list[Probe]:
    """Return the samples of batches that moments hold out of a fit, as probes."""
    probes, seen = [], 0
    for batch in batches:
        batch = without_empty(batch)
        size = samples_in(batch)
        rows = [i for i in range(size) if (seen + i) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
        seen += size
        if rows:
            probes.append(Probe(take_samples(batch, rows)))
    return probes
