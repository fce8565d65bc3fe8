"""What gradient criteria differentiate: one number per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadhead.criteria.inputs import Batch, valid_tokens
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
        logits = logits * valid_tokens(batch)[..., None]
    return logits.flatten(1).norm(dim=1)


def task(model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
    """Cross-entropy in nats: of the label, or the mean over a sample's predicted tokens.

    Shape: (batch,). Labels of shape (batch,) are classes (or, for one logit, targets of a
    regression); of shape (batch, tokens) they are token ids with -100 = ignore, shifted by one for
    causal models, which are scored on their own tokens when there are no labels.

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
                " give labels, or choose the loss 'logit_norm', which needs none"
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
            " this task, or choose the loss 'logit_norm'"
        )
    if logits.dim() == 2:
        return _class_loss(logits, labels)
    if causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    nll = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    counted = (labels != -100).sum(1)
    return nll.sum(1) / counted.clamp(min=1)


def is_causal_lm(model: nn.Module) -> bool:
    """Whether a model predicts each next token."""
    return any(s in type(model).__name__ for s in ("ForCausalLM", "LMHeadModel"))


LOSSES: dict[str, Loss] = {"logit_norm": logit_norm, "task": task}


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
