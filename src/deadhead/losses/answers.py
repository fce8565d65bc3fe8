"""What a model predicts, whatever its head: distributions over classes, or numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deadhead.data.inputs import Batch, valid_tokens
from deadhead.errors import DataError


class Answers(NamedTuple):
    """The predictions for a batch.

    Attributes:
        logits: (samples, answers, classes): one answer per sample, per token, per label of a
            multi-label model, or for the start and the end of a span.
        valid: (samples, answers), the answers that count: not those of padding tokens.
        numbers: whether the logits are numbers, the means of Gaussians of variance 1: those of a
            regression, and the last hidden state of a model without a head.
    """

    logits: Tensor
    valid: Tensor
    numbers: bool


def answers_of(model: nn.Module, outputs: Any, batch: Batch) -> Answers:
    """Read a model's outputs as its head means them."""
    logits, valid = widened(logits_of(outputs)), valid_tokens(batch)
    numbers = not has_head(outputs)
    if is_span(outputs):
        # a start or an end is one of the sample's tokens
        logits = logits.masked_fill(~valid[..., None], -torch.inf).transpose(1, 2)
        return Answers(logits, valid.any(1, keepdim=True).expand(-1, 2), False)
    if logits.dim() == 3:
        return Answers(logits, valid[:, : logits.shape[1]], numbers or logits.shape[-1] == 1)
    valid = valid.reshape(len(logits), -1).any(1, keepdim=True)
    kind = problem_type(model, logits, batch.get("labels"))
    if kind == "multi_label_classification":  # a label is a choice of two: absent or present
        logits = torch.stack([torch.zeros_like(logits), logits], dim=-1)
        return Answers(logits, valid.expand(-1, logits.shape[1]), False)
    return Answers(logits[:, None], valid, numbers or kind == "regression")


def problem_type(model: nn.Module, logits: Tensor, labels: Tensor | None = None) -> str:
    """Return what a model with one prediction per sample is trained for, in transformers' words.

    Its config says it; if not, transformers reads it off the number of logits and the labels.
    """
    known = getattr(getattr(model, "config", None), "problem_type", None)
    if known is not None and "Classification" in type(model).__name__:
        return known
    if logits.shape[-1] == 1:
        return "regression"
    several = labels is not None and labels.is_floating_point() and labels.shape == logits.shape
    return "multi_label_classification" if several else "single_label_classification"


def logits_of(outputs: Any) -> Tensor:
    """Return the logits of a model's outputs; of a base model, its last hidden state.

    Those of a span are (samples, tokens, start or end).
    """
    if isinstance(outputs, Tensor):
        return outputs
    if is_span(outputs):
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    if hasattr(outputs, "logits") and not hasattr(outputs, "mc_logits"):
        return outputs.logits
    if isinstance(outputs, tuple) or hasattr(outputs, "last_hidden_state"):
        return outputs[0]
    raise DataError(
        f"the outputs {', '.join(outputs)} are of several heads; use a model with one head, such as"
        " a ...ForCausalLM or a ...ForSequenceClassification"
    )


def is_span(outputs: Any) -> bool:
    """Whether outputs are the start and the end of an answer (question answering)."""
    return hasattr(outputs, "start_logits") and hasattr(outputs, "end_logits")


def has_head(outputs: Any) -> bool:
    """Whether outputs are predictions, not the hidden state of a base model."""
    return isinstance(outputs, Tensor) or hasattr(outputs, "logits") or is_span(outputs)


def widened(logits: Tensor) -> Tensor:
    """Return logits in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
