"""What a batch gives a model, of text, images or sound: its samples, and which tokens are real."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
# the first that a batch has says how many samples there are; with numbers per token, about
MAIN_INPUTS = {
    "input_ids": 1,
    "inputs_embeds": 1,
    "pixel_values": 768,
    "input_features": 160,
    "input_values": 320,
}
_NOT_TEXT = re.compile(r"vision|visual|image|pixel|audio|speech")
_OWN_DECODER_INPUTS = re.compile(r"Classification|QuestionAnswering")


def main_input(batch: Batch) -> tuple[str, Tensor] | None:
    """Return the input that a batch has a row of for each sample, and its name."""
    named = next((name for name in MAIN_INPUTS if name in batch), None)
    if named is None:
        others = (name for name, x in batch.items() if x.dim() > 1 and not name.endswith("mask"))
        named = next((name for name in others if "labels" not in name), None)
    return None if named is None else (named, batch[named])


def samples_in(batch: Batch) -> int:
    """Count the samples of a batch."""
    main = main_input(batch)
    return len(next(iter(batch.values())) if main is None else main[1])


def is_text(batch: Batch) -> bool:
    """Whether tokens are what a batch is made of."""
    return "input_ids" in batch or "inputs_embeds" in batch


def valid_tokens(batch: Batch) -> Tensor:
    """Return which tokens are real; shape (sequences, tokens), of each choice if several.

    Of sound the tokens are the numbers that have a mask; images, and sound without a mask, are one
    token per sample.
    """
    mask = batch.get("attention_mask")
    if mask is None:
        if not is_text(batch):
            first = next(iter(batch.values()))
            return torch.ones(samples_in(batch), 1, dtype=torch.bool, device=first.device)
        first = batch["input_ids"] if "input_ids" in batch else batch["inputs_embeds"][..., 0]
        mask = torch.ones_like(first, dtype=torch.bool)
    return mask.bool().flatten(0, -2)


def valid_within(
    model: nn.Module, batch: Batch, shape: tuple[int, int], stack: str = "", *, cut: bool = False
) -> Tensor:
    """Return which tokens are real where a model has so many (rows, tokens) of a batch.

    A decoder's are those of its own mask or labels; those of sound are counted from the mask of the
    wave; where nothing says which are padding (images, windows of them) all are real.

    Args:
        model: the model.
        batch: the batch.
        shape: rows and tokens.
        stack: name of the stack whose tokens they are.
        cut: whether they may be the first of the text's tokens only.
    """
    main = main_input(batch)
    device = None if main is None else main[1].device
    decodes = has_decoder(model) and stack.startswith("decoder")
    mask = _decoder_mask(batch, shape) if decodes else batch.get("attention_mask")
    mixed = is_text(batch) and _NOT_TEXT.search(stack)
    if mask is not None and mask.dim() > 1 and not mixed:
        mask = mask.bool().flatten(0, -2)
        if cut and is_text(batch) and len(mask) == shape[0]:
            mask = mask[:, : shape[1]]
        elif len(mask) == shape[0] and mask.shape[1] != shape[1] and not is_text(batch):
            mask = _shortened(model, mask, shape[1])
        if tuple(mask.shape) == tuple(shape):
            return mask
    return torch.ones(shape, dtype=torch.bool, device=device)


def has_decoder(model: nn.Module) -> bool:
    """Whether a model has an encoder and a decoder."""
    config = getattr(model, "config", None)
    return bool(getattr(config, "is_encoder_decoder", False))


def _decoder_mask(batch: Batch, shape: tuple[int, int]) -> Tensor | None:
    mask = batch.get("decoder_attention_mask")
    labels = batch.get("labels")
    if mask is None and labels is not None and tuple(labels.shape) == tuple(shape):
        return labels != -100
    return mask


def _shortened(model: Any, mask: Tensor, tokens: int) -> Tensor:
    """Return the mask of what convolutions make of sound."""
    lengths = getattr(model, "_get_feat_extract_output_lengths", None)
    if lengths is None:
        return mask
    counted = torch.as_tensor(lengths(mask.sum(1))).to(mask.device)
    return torch.arange(tokens, device=mask.device) < counted[:, None]


def tokens_in(batch: Batch) -> int:
    """Count tokens, about, padding included: what a forward pass costs."""
    main = main_input(batch)
    if is_text(batch) or main is None:
        return valid_tokens(batch).numel()
    return max(len(main[1]), main[1].numel() // MAIN_INPUTS.get(main[0], 1))


def with_choices(model: Any, batch: Batch) -> Batch:
    """Make each text of a batch one choice, if the model chooses and the batch has no choices."""
    ids = batch.get("input_ids")
    if "ForMultipleChoice" not in type(model).__name__ or ids is None or ids.dim() != 2:
        return batch
    return {k: v[:, None] if v.shape[:2] == ids.shape else v for k, v in batch.items()}


def with_decoder_inputs(model: Any, batch: Batch) -> Batch:
    """Give a decoder its input, if a batch lacks it.

    It is the labels, shifted to the right; without labels the text itself, as BART has it, and of
    sound or images the first token alone. Models with another head make their own.
    """
    known = inspect.signature(model.forward).parameters
    needed = "decoder_input_ids" in known and has_decoder(model)
    if not needed or "decoder_input_ids" in batch or "decoder_inputs_embeds" in batch:
        return batch
    if _OWN_DECODER_INPUTS.search(type(model).__name__):
        return batch
    labels = batch.get("labels")
    if labels is None or labels.dim() != 2 or labels.is_floating_point():
        labels, mask = batch.get("input_ids"), batch.get("attention_mask")
        if labels is not None and mask is not None:
            labels = labels.masked_fill(mask == 0, -100)
    if labels is None:
        main = main_input(batch)
        shape = (samples_in(batch), 1)
        device = None if main is None else main[1].device
        labels = torch.zeros(shape, dtype=torch.long, device=device)
    return {**batch, "decoder_input_ids": shifted_right(model, labels)}


def shifted_right(model: Any, labels: Tensor) -> Tensor:
    """Shift labels as a model does for its decoder; its start token goes first."""
    try:
        return model.prepare_decoder_input_ids_from_labels(labels=labels)
    except (AttributeError, ValueError):  # it has no such method, or no start token
        pass
    known = [_token(model, name) for name in ("decoder_start", "bos", "pad")]
    start = next((token for token in known if token is not None), 0)
    pad = _token(model, "pad")
    first = torch.full_like(labels[:, :1], start)
    shifted = torch.cat([first, labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, start if pad is None else pad)


def _token(model: Any, name: str) -> int | None:
    for config in (model.config, model.config.get_text_config(decoder=True)):
        value = getattr(config, f"{name}_token_id", None)
        if isinstance(value, int) and value >= 0:
            return value
    return None


def longest_sample(model: nn.Module, batches: list[Batch]) -> Batch | None:
    """Return one sample of the batch with the longest ones, without labels; None of no batches."""
    if not batches:
        return None
    longest = max(batches, key=lambda batch: tokens_in(batch) / max(1, samples_in(batch)))
    size = samples_in(longest)
    whole = with_decoder_inputs(model, with_choices(model, longest))
    one = {k: v[:1] if v.dim() and len(v) == size else v for k, v in whole.items()}
    return {k: v for k, v in one.items() if k not in ("labels", "start_positions", "end_positions")}
