"""Losses: one number per sample, of what a model predicts or of its divergence from another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadhead.data.batches import Batch, samples_in, take_samples, valid_tokens, without_empty
from deadhead.data.inputs import is_text, main_input
from deadhead.display import Brief
from deadhead.errors import DataError
from deadhead.losses.answers import (
    answers_of,
    has_head,
    is_span,
    logits_of,
    problem_type,
    valid_answers,
    widened,
)
from deadhead.models.purpose import is_causal_lm, purpose_of
from deadhead.models.registry import Registry
from deadhead.moments.sums import HELD_OUT_EVERY

Loss = Callable[[nn.Module, Any, Batch], Tensor]


def logit_norm(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
    """Euclidean norm of a sample's logits (of its real tokens). Needs no labels.

    Shape: (batch,). Source: Greedy-Gnorm, arXiv 2602.04491.
    """
    logits = widened(logits_of(outputs))
    if logits.dim() == 3:
        logits = logits.masked_fill(~valid_answers(model, logits, batch)[..., None], 0)
    return logits.flatten(1).norm(dim=1)


def task(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
    """The loss that the model's head is trained by, in nats, or squared units of a regression.

    It is that of transformers for a batch of this sample alone: cross-entropy of a class, of a
    choice, or its mean over tokens that have a label (shifted by one for causal models, whose own
    tokens are their labels where there are none), or over the start and the end of a span; that of
    CTC; binary cross-entropy, mean over labels, and squared error, mean over outputs, as the
    config's `problem_type` says. Minimal pairs are scored on their acceptable sentences.

    Shape: (batch,).
    """
    logits, labels = widened(logits_of(outputs)), batch.get("labels")
    if is_span(outputs):
        return _span_loss(answers_of(model, outputs, batch).logits, batch)
    causal = is_causal_lm(model)
    if labels is None:
        if not causal or "input_ids" not in batch:
            raise _no_labels("labels")
        labels = batch["input_ids"].masked_fill(~valid_tokens(batch), -100)
    if has_head(outputs) and logits.dim() == 2:
        return _sample_loss(model, logits, labels)
    if purpose_of(model) == "ctc":
        return _ctc_loss(model, logits, labels, valid_answers(model, logits, batch))
    if labels.shape != logits.shape[:2] or labels.is_floating_point() or not has_head(outputs):
        raise _misfit(model, logits, labels)
    _check_classes(labels[labels != -100], logits.shape[-1])
    if causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    nll = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    counted = (labels != -100).sum(1)
    return nll.sum(1) / counted.clamp(min=1)


def _sample_loss(model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of one prediction per sample, by the problem that the model is made for."""
    kind = problem_type(model, logits, labels)
    if kind == "single_label_classification":
        if labels.shape != logits.shape[:1] or labels.is_floating_point():
            raise _misfit(model, logits, labels)
        _check_classes(labels, logits.shape[1])
        return F.cross_entropy(logits, labels, reduction="none")
    if kind == "regression" and labels.dim() == 1:
        labels = labels[:, None]
    if labels.shape != logits.shape:
        raise _misfit(model, logits, labels)
    labels = labels.to(logits.dtype)
    if kind == "regression":
        return ((logits - labels) ** 2).mean(1)
    if bool(((labels < 0) | (labels > 1)).any()):
        raise DataError("a label of a multi-label model is outside 0 to 1; write 0 or 1 per label")
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)


def _span_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of start and end; logits (samples, start or end, tokens)."""
    for name in ("start_positions", "end_positions"):
        if name not in batch:
            raise _no_labels(name)
    samples, _, tokens = logits.shape
    ends = [batch["start_positions"], batch["end_positions"]]
    places = torch.stack([end.reshape(samples) for end in ends], dim=1)
    if bool((places < 0).any() | (places > tokens).any()):
        raise DataError(
            "a start or end position is outside its sample; give positions of 0 to"
            f" {tokens - 1}, or {tokens} for one that was cut off"
        )
    # as in transformers, a position beyond the tokens is ignored
    nll = F.cross_entropy(logits.transpose(1, 2), places, reduction="none", ignore_index=tokens)
    return nll.mean(1)


def _ctc_loss(model: nn.Module, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Return the loss of a sequence without alignment; labels (samples, letters), -100 is none."""
    if labels.dim() != 2 or len(labels) != len(logits) or labels.is_floating_point():
        raise _misfit(model, logits, labels)
    real = labels >= 0
    _check_classes(labels[real], logits.shape[-1])
    config: Any = model.config
    with torch.backends.cudnn.flags(enabled=False):
        nll = F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            labels.masked_fill(~real, 0),
            valid.sum(1),
            real.sum(1),
            blank=config.pad_token_id,
            reduction="none",
            zero_infinity=config.ctc_zero_infinity,
        )
    return nll / real.sum(1).clamp(min=1) if config.ctc_loss_reduction == "mean" else nll


def kl(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
    """A number whose squared gradient is the curvature of KL(model || changed model). No labels.

    The divergence itself has no slope at the model; its curvature is the Fisher information
    `sum_c p_c grad(log p_c) grad(log p_c)^T`. With a random sign per class and token,
    `sum_c sign_c sqrt(p_c) log p_c` (p held fixed) has a gradient whose square is that in the mean,
    at the price of one backward pass and with far less noise than labels drawn from p. A sample's
    tokens are summed and divided by the root of their number: the curvature is that of their mean
    divergence. Signs are a hash of the sample's own tokens: the same at any batch size and padding
    side. See `Answers` for what is predicted, and for numbers, taken for the means of Gaussians.

    Shape: (batch,).
    Source: true against empirical Fisher, Kunstner, Balles, Hennig 2019 (arXiv 1905.12558); the
    estimate is Hutchinson's (1990) on the square root of the Fisher matrix of the logits.
    """
    logits, valid, numbers = answers_of(model, outputs, batch)
    signs = _signs(batch, logits)
    if numbers:
        terms = (logits * signs).sum(-1).masked_fill(~valid, 0)
        return terms.sum(1) / valid.sum(1).clamp(min=1).sqrt()
    log_p = logits.log_softmax(-1)
    root = (log_p.detach() / 2).exp()
    terms = (signs * root * log_p).masked_fill(root == 0, 0)  # a class ruled out by -inf
    return terms.sum(-1).masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1).sqrt()


def _signs(batch: Batch, like: Tensor) -> Tensor:
    """Return -1 or 1 by a sample's tokens, the place in it, and the feature; shaped as `like`."""
    # the parity of the bits that a random number of the token shares with one of the feature: so
    # signs of two features agree as often as not over tokens
    valid = valid_tokens(batch).reshape(samples_in(batch), -1)  # of all choices, if any
    if is_text(batch):
        ids = batch["input_ids"] if "input_ids" in batch else _numbers(batch["inputs_embeds"])
    else:
        _, main = main_input(batch) or ("", next(iter(batch.values())))
        ids, valid = _numbers(main.flatten(1))[:, None], valid[:, :1]
    place = torch.arange(max(valid.shape[1], like.shape[1]), device=valid.device)
    weights = _hash(place)
    sample = (ids.reshape(valid.shape) + 1) * valid * weights[: valid.shape[1]]
    sample = sample.sum(1, keepdim=True)  # integers wrap around
    tokens = _bits(_hash(sample + weights[: like.shape[1]]))
    features = _bits(_hash(torch.arange(like.shape[2], device=like.device) - (1 << 40)))
    shared = tokens.to(like.dtype) @ features.to(like.dtype).T
    return 1 - 2 * (shared % 2)


def _numbers(embeds: Tensor) -> Tensor:
    """Return a whole number per token, of the bits of its embedding; shape (batch, tokens)."""
    bits = embeds.detach().float().contiguous().view(torch.int32).long()
    return (bits * _hash(torch.arange(bits.shape[-1], device=bits.device))).sum(-1)


def _hash(x: Tensor) -> Tensor:
    """Mix the bits of whole numbers (the finalizer of splitmix64)."""
    x = (x + 1) * -0x61C8864680B583EB
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & (1 << 33) - 1)


def _bits(x: Tensor) -> Tensor:
    return x[..., None] >> torch.arange(32, device=x.device) & 1


LOSSES: Registry[Loss] = Registry("loss")
for _name, _loss in (("kl", kl), ("logit_norm", logit_norm), ("task", task)):
    LOSSES.register(_name, _loss)


def loss_named(loss: str | Loss) -> Loss:
    """Look a loss up; a callable `(model, outputs, batch) -> (batch,)` is returned as it is."""
    return loss if callable(loss) else LOSSES[loss]


def _no_labels(name: str) -> DataError:
    return DataError(
        f"the 'task' loss needs {name}, and the batches have none; give them, or choose the loss"
        " 'kl', which needs none"
    )


def _misfit(model: nn.Module, logits: Tensor, labels: Tensor) -> DataError:
    kind = problem_type(model, logits, labels) if logits.dim() == 2 else "token labels"
    return DataError(
        f"the 'task' loss does not fit: labels of shape {list(labels.shape)} and {labels.dtype},"
        f" outputs of a {type(model).__name__} ({kind}) of shape {list(logits.shape)}; give the"
        " labels that this model is trained with, or choose the loss 'kl'"
    )


def _check_classes(labels: Tensor, classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"label {wrong[0].item()} is not among the model's {classes} classes;"
            " map the labels to 0..classes-1, or use a model made for this task"
        )


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

    Rows are the first sentences of some pairs, then their second ones. The loss is
    `KL(dense || model)` of the softmax of the two log-likelihoods, whichever of them is right.

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

    `divergence` makes, of a model, the dense model's outputs and the batch, a loss in nats.
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
