"""What the outputs of a model mean: its predictions, and which of them count."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deadhead.data.inputs import Batch, has_decoder, valid_tokens, valid_within
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
    logits, numbers = widened(logits_of(outputs)), not has_head(outputs)
    valid = valid_answers(model, logits, batch)
    if is_span(outputs):
        # a start or an end is one of the sample's tokens
        logits = logits.masked_fill(~valid[..., None], -torch.inf).transpose(1, 2)
        return Answers(logits, valid.any(1, keepdim=True).expand(-1, 2), False)
    if logits.dim() == 3:
        return Answers(logits, valid, numbers or logits.shape[-1] == 1)
    kind = problem_type(model, logits, batch.get("labels"))
    if kind == "multi_label_classification":  # a label is a choice of two: absent or present
        logits = torch.stack([torch.zeros_like(logits), logits], dim=-1)
        return Answers(logits, valid.expand(-1, logits.shape[1]), False)
    return Answers(logits[:, None], valid, numbers or kind == "regression")


def valid_answers(model: nn.Module, logits: Tensor, batch: Batch) -> Tensor:
    """Return which answers count; (samples, tokens), or (samples, 1) of one answer each."""
    if logits.dim() == 3:
        stack = "decoder" if has_decoder(model) else ""
        shape = (len(logits), logits.shape[1])
        return valid_within(model, batch, shape, stack, cut=True)
    tokens = valid_tokens(batch)
    many = tokens.numel() % len(logits)  # images have none
    return (
        logits.new_ones(len(logits), 1).bool()
        if many
        else (tokens.reshape(len(logits), -1).any(1, keepdim=True))
    )


def problem_type(model: nn.Module, logits: Tensor, labels: Tensor | None = None) -> str:
    """Return the `problem_type` of one prediction per sample: the config's, or as transformers.

    Without one it is read off the number of logits and the labels.
    """
    known = getattr(getattr(model, "config", None), "problem_type", None)
    if known is not None and "Classification" in type(model).__name__:
        return known
    if logits.shape[-1] == 1:
        return "regression"
    several = labels is not None and labels.is_floating_point() and labels.shape == logits.shape
    return "multi_label_classification" if several else "single_label_classification"


def logits_of(outputs: Any) -> Tensor:
    """Return the predictions, (samples, classes) or (samples, tokens, classes).

    Those of a span are (samples, tokens, start or end), of a plane its places are tokens, and of a
    model without a head the last hidden state or the embeddings.
    """
    if isinstance(outputs, Tensor):
        return _in_row(outputs)
    if is_span(outputs):
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    if hasattr(outputs, "logits") and not hasattr(outputs, "mc_logits"):
        return _in_row(outputs.logits)
    if isinstance(outputs, tuple) or hasattr(outputs, "last_hidden_state"):
        return _in_row(outputs[0])
    named = dict(outputs) if hasattr(outputs, "items") else {}
    floats = {k: v for k, v in named.items() if isinstance(v, Tensor) and v.is_floating_point()}
    embeds = [v for k, v in floats.items() if k.endswith("_embeds") and v.dim() == 2]
    if embeds and len({len(v) for v in embeds}) == 1:  # of a text and an image
        return torch.cat(embeds, dim=-1)
    heads = [k for k in floats if k.endswith("logits")]
    if len(heads) < 2:
        chosen = next(
            (v for k, v in floats.items() if v.dim() > 1 and k in (heads or floats)), None
        )
        if chosen is not None:
            return _in_row(chosen)
    raise DataError(
        f"the outputs {', '.join(named)} are of several heads; use a model with one head, such as"
        " a ...ForCausalLM or a ...ForSequenceClassification"
    )


def _in_row(logits: Tensor) -> Tensor:
    """Put the places of a plane, (samples, classes, height, width), in a row of tokens."""
    return logits if logits.dim() < 4 else logits.flatten(2).transpose(1, 2)


def is_span(outputs: Any) -> bool:
    """Whether outputs are the start and the end of an answer (question answering)."""
    return hasattr(outputs, "start_logits") and hasattr(outputs, "end_logits")


def has_head(outputs: Any) -> bool:
    """Whether outputs are predictions, not the hidden state of a base model."""
    return isinstance(outputs, Tensor) or hasattr(outputs, "logits") or is_span(outputs)


def widened(logits: Tensor) -> Tensor:
    """Return logits in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
