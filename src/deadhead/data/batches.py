"""Batches as the model wants them: padding on the right, labels aside, on its device."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.data.inputs import (
    MAIN_INPUTS,
    Batch,
    is_text,
    main_input,
    samples_in,
    tokens_in,
    valid_tokens,
    with_choices,
    with_decoder_inputs,
)
from deadhead.data.padding import padding_named
from deadhead.errors import DataError, DeadheadError

LABELS = ("labels", "start_positions", "end_positions")


def ready(model: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches on the model's device, padding on the right, without what is all padding."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    vocabulary = vocabulary_of(model)
    for number, batch in enumerate(batches):
        check_batch(batch, number, vocabulary)
        batch = with_decoder_inputs(model, with_choices(model, to_device(batch, device)))
        batch = aligned(without_empty(batch))
        if samples_in(batch):
            yield batch


def aligned(batch: Batch) -> Batch:
    """Move padding to the right of every row, so that positions do not depend on its side.

    Every tensor that starts with the shape of `attention_mask`, (batch, tokens), moves with it; not
    what belongs to a decoder.
    """
    mask = batch.get("attention_mask")
    if mask is None or bool(mask[..., 0].all()):
        return dict(batch)
    last = mask.dim() - 1
    order = torch.argsort(mask, dim=last, descending=True, stable=True)

    apart = {name for name in batch if name.startswith("decoder_")}
    apart |= {"labels"} if apart else set()

    def moved(name: str, value: Tensor) -> Tensor:
        if value.shape[: last + 1] != mask.shape or name in apart:
            return value
        return value.take_along_dim(order.view(*mask.shape, *[1] * (value.dim() - last - 1)), last)

    return {name: moved(name, value) for name, value in batch.items()}


def without_empty(batch: Batch) -> Batch:
    """Leave out samples that are all padding: they would count in means, and say nothing."""
    mask = batch.get("attention_mask")
    if mask is None or not len(mask):
        return dict(batch)
    filled = mask.flatten(1).any(1)
    if bool(filled.all()):
        return dict(batch)
    return take_samples(batch, filled.nonzero()[:, 0])


def take_samples(batch: Batch, rows: Tensor | list[int]) -> Batch:
    """Take some samples of a batch; what is not of samples stays as it is."""
    size = samples_in(batch)
    return {k: v[rows] if v.dim() and len(v) == size else v for k, v in batch.items()}


def call(model: nn.Module, batch: Batch) -> Any:
    """Run the model on a batch: without labels, and with no argument that it does not know."""
    known = inspect.signature(model.forward).parameters
    batch = with_decoder_inputs(model, with_choices(model, batch))
    named = [n for n, p in known.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    inputs = {k: v for k, v in batch.items() if k not in LABELS and (k in known or not named)}
    extra = {"use_cache": False} if "use_cache" in known else {}
    try:
        with padding_named(model, inputs) as told:
            return model(**told, **extra)
    except (DeadheadError, torch.OutOfMemoryError):
        raise
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        given = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise DataError(
            f"a {type(model).__name__} cannot run a batch of {given or 'nothing'} ({reason:.200});"
            " give batches that this model takes"
        ) from error


def check_batch(batch: Any, number: int = 0, vocabulary: int | None = None) -> None:
    """Refuse what is no batch for a model of so many tokens."""
    if not isinstance(batch, Mapping):
        raise _no_batch(number, f"is a {type(batch).__name__}")
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            raise _no_batch(number, f"holds {type(value).__name__} as {name!r}")
    batch = dict(batch)
    main = main_input(batch)
    if main is None:
        raise _no_batch(number, f"has no input_ids, only {', '.join(batch) or 'nothing'}")
    name, first = main
    tokens = first.shape[:-1] if name == "inputs_embeds" else first.shape
    if len(tokens) < 2:
        raise _no_batch(number, f"has {name} of shape {list(first.shape)}, not a row per sample")
    for other in MAIN_INPUTS.keys() & batch.keys() if not is_text(batch) else ():
        if len(batch[other]) != len(first):
            raise _no_batch(number, f"has {len(first)} {name} and {len(batch[other])} {other}")
    if not is_text(batch):
        return
    mask = batch.get("attention_mask")
    if mask is not None and mask.shape != tokens:
        shapes = f"{list(mask.shape)} for tokens of shape {list(tokens)}"
        raise _no_batch(number, f"has an attention_mask of shape {shapes}")
    if vocabulary is None or "input_ids" not in batch or not first.numel():
        return
    if first.is_floating_point():
        raise _no_batch(number, f"has input_ids of {first.dtype}")
    least, most = int(first.min()), int(first.max())
    if least < 0 or most >= vocabulary:
        raise DataError(unknown_token(most if least >= 0 else least, vocabulary))


def _no_batch(number: int, what: str) -> DataError:
    return DataError(
        f"batch {number} {what}; give a dictionary of tensors, as a DataLoader or a tokenizer with"
        " return_tensors='pt' makes"
    )


def unknown_token(token: int, vocabulary: int) -> str:
    """Say that a token id is none of the model's."""
    return (
        f"token id {token} is not among the model's {vocabulary}: the text was tokenized for"
        " another model; give the tokenizer that belongs to this one"
    )


def vocabulary_of(model: nn.Module) -> int | None:
    """Return how many token ids a model knows; None if it does not say."""
    try:
        embeddings = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return None
    weight = getattr(embeddings, "weight", None)
    return len(weight) if isinstance(weight, Tensor) and weight.dim() == 2 else None


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to a device."""
    return {k: v.to(device) for k, v in batch.items()}


@dataclass(frozen=True)
class Part:
    """Samples of one length, and the number of the batch that each was in, for messages."""

    inputs: Batch
    batches: tuple[int, ...]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.batches)

    @property
    def padded(self) -> bool:
        """Whether there is padding left, or a hole."""
        return not bool(valid_tokens(self.inputs).all())

    @property
    def tokens(self) -> int:
        """Number of tokens, all samples together."""
        return tokens_in(self.inputs)


def parts_of(batches: Iterable[Batch], max_tokens: int) -> list[Part]:
    """Put samples of the same length together, longest first; at most `max_tokens` in a part.

    Every tensor that starts with the shape of `attention_mask` is cut to the length. A batch whose
    mask has holes, or with other tensors that are as wide as it (class probabilities may happen to
    be), keeps its padding; one with tensors that are not one row per sample, or with several
    choices per sample, stays whole.
    """
    whole: list[Part] = []
    pieces: dict[tuple, list[Part]] = {}
    for number, batch in enumerate(batches):
        inputs = aligned(without_empty(batch))
        samples = samples_in(inputs)
        choices = len(valid_tokens(inputs)) != samples
        if choices or not all(v.dim() and len(v) == samples for v in inputs.values()):
            whole.append(Part(inputs, (number,) * samples))
            continue
        for length, rows in _rows_by_length(inputs).items():
            cut = {
                k: v[rows, :length] if _by_token(v, inputs) else v[rows] for k, v in inputs.items()
            }
            kind = length, *((k, v.dtype, v.shape[1:]) for k, v in sorted(cut.items()))
            pieces.setdefault(kind, []).append(Part(cut, (number,) * len(rows)))
    found = [part for kind in pieces for part in _split(pieces[kind], max_tokens)]
    return sorted(whole + found, key=lambda part: -part.tokens // max(1, part.samples))


def _rows_by_length(inputs: Batch) -> dict[int, list[int]]:
    valid = valid_tokens(inputs)
    n, width = valid.shape
    lengths = valid.sum(1)
    holes = (valid != (torch.arange(width, device=valid.device) < lengths[:, None])).any()
    others = [v for v in inputs.values() if v.dim() > 1 and not _by_token(v, inputs)]
    decodes = any(name.startswith("decoder_") for name in inputs)
    if holes or decodes or not is_text(inputs) or any(width in v.shape[1:] for v in others):
        return {width: list(range(n))}
    found: dict[int, list[int]] = {}
    for row, length in enumerate(lengths.clamp(min=1).tolist()):
        found.setdefault(length, []).append(row)
    return found


def _by_token(value: Tensor, inputs: Batch) -> bool:
    probabilities = value.dim() == 2 and value.is_floating_point()
    return value.shape[:2] == valid_tokens(inputs).shape and not probabilities


def _split(pieces: list[Part], max_tokens: int) -> list[Part]:
    """Join parts of one kind and cut them to size."""
    inputs = {k: torch.cat([p.inputs[k] for p in pieces]) for k in pieces[0].inputs}
    batches = [number for piece in pieces for number in piece.batches]
    size = max(1, max_tokens * len(batches) // tokens_in(inputs))
    return [
        Part({k: v[at : at + size] for k, v in inputs.items()}, tuple(batches[at : at + size]))
        for at in range(0, len(batches), size)
    ]
