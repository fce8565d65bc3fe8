"""What gradient criteria differentiate: one number per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadhead.data.inputs import Batch, valid_tokens
from deadhead.errors import DataError, unknown_name

Loss = Callable[[nn.Module, Any, Batch], Tensor]


def logits_of(outputs: Any) -> Tensor:
    """Return the logits of a model's outputs; of a base model, its last hidden state."""
    if isinstance(outputs, Tensor):
        return outputs
    return outputs.logits if hasattr(outputs, "logits") else outputs[0]


def logit_norm(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
    """Euclidean norm of a sample's logits (of its real tokens). Needs no labels.

    Shape: (batch,). Source: Greedy-Gnorm, arXiv 2602.04491.
    """
    logits = _wide(logits_of(outputs))
    if logits.dim() == 3:
        logits = logits.masked_fill(~valid_tokens(batch)[..., None], 0)
    return logits.flatten(1).norm(dim=1)


def task(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
    """Cross-entropy in nats: of the label, or the mean over a sample's predicted tokens.

    Shape: (batch,). Labels of shape (batch,) are classes (or, for one logit, targets of a
    regression); of shape (batch, tokens) they are token ids with -100 = ignore, shifted by one for
    causal models, which are scored on their own tokens when there are no labels. Minimal pairs are
    scored on their acceptable sentences: what their task's `batches` hold.

    Raises:
        DataError: the batch has no labels and the model is not a causal language model; the
            labels do not fit the outputs; or a label is not among the model's classes.
    """
    logits, labels = _wide(logits_of(outputs)), batch.get("labels")
    causal = is_causal_lm(model)
    if labels is None:
        if not causal:
            raise DataError(
                "the 'task' loss needs labels, and the batches have none;"
                " give labels, or choose the loss 'kl', which needs none"
            )
        if "input_ids" not in batch:
            raise DataError(
                "the 'task' loss needs token labels, and the batches have neither labels nor"
                " input_ids; give labels, or choose the loss 'logit_norm'"
            )
        labels = batch["input_ids"].masked_fill(~valid_tokens(batch), -100)
    if labels.dim() != logits.dim() - 1 or not _has_head(outputs):
        raise DataError(
            f"the 'task' loss does not fit: labels of shape {list(labels.shape)}, outputs of a"
            f" {type(model).__name__} of shape {list(logits.shape)}; use a model with a head for"
            " this task, or choose the loss 'kl'"
        )
    if logits.dim() == 2:
        return _class_loss(logits, labels)
    if causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    nll = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    counted = (labels != -100).sum(1)
    return nll.sum(1) / counted.clamp(min=1)


def kl(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
    """A number whose squared gradient is the curvature of KL(model || changed model). No labels.

    The divergence itself has no slope at the model; its curvature is the Fisher information
    `sum_c p_c grad(log p_c) grad(log p_c)^T`. With a random sign per class and token,
    `sum_c sign_c sqrt(p_c) log p_c` (p held fixed) has a gradient whose square is that in the mean,
    at the price of one backward pass and with far less noise than labels drawn from p. A sample's
    tokens are summed and divided by the root of their number: the curvature is that of their mean
    divergence. Signs are a hash of the sample's own tokens: the same at any batch size and padding
    side. One logit, or the last hidden state of a model without a head, is taken for the mean of
    Gaussians of variance 1.

    Shape: (batch,).
    Source: true against empirical Fisher, Kunstner, Balles, Hennig 2019 (arXiv 1905.12558); the
    estimate is Hutchinson's (1990) on the square root of the Fisher matrix of the logits.
    """
    logits, valid = _wide(logits_of(outputs)), valid_tokens(batch)
    if logits.dim() == 2:  # one prediction a sample
        logits, valid = logits[:, None], valid[:, :1]
    signs = _signs(batch, logits)
    if logits.shape[-1] == 1 or not _has_head(outputs):
        terms = (logits * signs).sum(-1).masked_fill(~valid, 0)
        return terms.sum(1) / valid.sum(1).clamp(min=1).sqrt()
    log_p = logits.log_softmax(-1)
    root = (log_p.detach() / 2).exp()
    terms = (signs * root * log_p).masked_fill(root == 0, 0)  # a class ruled out by -inf
    return terms.sum(-1).masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1).sqrt()


def _signs(batch: Batch, like: Tensor) -> Tensor:
    """Return -1 or 1 by a sample's tokens, the place in it, and the feature.

    Signs of two features agree as often as not over tokens: the sign is the parity of the bits
    that a random number of the token shares with one of the feature, counted in one product.

    Shape: as `like`, (batch, tokens, features).
    """
    valid = valid_tokens(batch)
    ids = batch["input_ids"] if "input_ids" in batch else _numbers(batch["inputs_embeds"])
    place = torch.arange(valid.shape[1], device=valid.device)
    sample = ((ids + 1) * valid * _hash(place)).sum(1, keepdim=True)  # integers wrap around
    tokens = _bits(_hash(sample + _hash(place[: like.shape[1]])))
    features = _bits(_hash(torch.arange(like.shape[2], device=like.device) - (1 << 40)))
    shared = tokens.to(like.dtype) @ features.to(like.dtype).T
    return 1 - 2 * (shared % 2)


def _numbers(embeds: Tensor) -> Tensor:
    """Return a whole number per token, of the bits of its embedding; shape (batch, tokens)."""
    bits = embeds.detach().float().contiguous().view(torch.int32).long()
    return (bits * _hash(torch.arange(bits.shape[-1], device=bits.device))).sum(-1)


def _hash(x: Tensor) -> Tensor:
    """Mix the bits of whole numbers (the finaliser of splitmix64)."""
    x = (x + 1) * -0x61C8864680B583EB
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & (1 << 33) - 1)


def _bits(x: Tensor, count: int = 32) -> Tensor:
    return x[..., None] >> torch.arange(count, device=x.device) & 1


def is_causal_lm(model: nn.Module) -> bool:
    """Whether a model predicts each next token."""
    return any(s in type(model).__name__ for s in ("ForCausalLM", "LMHeadModel"))


LOSSES: dict[str, Loss] = {"kl": kl, "logit_norm": logit_norm, "task": task}


def loss_named(loss: str | Loss) -> Loss:
    """Look a loss up; a callable `(model, outputs, batch) -> (batch,)` is returned as it is.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    return LOSSES[loss]


def _has_head(outputs: Any) -> bool:
    return isinstance(outputs, Tensor) or hasattr(outputs, "logits")


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return (logits[:, 0] - labels.to(logits.dtype)) ** 2
    wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
    if len(wrong):
        raise DataError(
            f"label {wrong[0].item()} is not among the model's {logits.shape[1]} classes;"
            " map the labels to 0..classes-1, or use a model made for this task"
        )
    return F.cross_entropy(logits, labels, reduction="none")
