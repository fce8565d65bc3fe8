"""Batches as the model wants them: padding on the right, labels aside, on its device."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.errors import DataError, DeadheadError

Batch = Mapping[str, Tensor]


def ready(model: nn.Module, batches: Iterable[Batch]) -> Iterator[dict[str, Tensor]]:
    """Yield batches on the model's device, padding on the right, without samples of padding only.

    A batch that is padding only is left out.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    vocabulary = vocabulary_of(model)
    for number, batch in enumerate(batches):
        check_batch(batch, number, vocabulary)
        batch = aligned(without_empty(to_device(batch, device)))
        if samples_in(batch):
            yield batch


def aligned(batch: Batch) -> dict[str, Tensor]:
    """Move padding to the right of every row, so that positions do not depend on its side.

    Shape: every tensor that starts with the shape of `attention_mask`, (batch, tokens), is moved
    along with it.
    """
    mask = batch.get("attention_mask")
    if mask is None or bool(mask[..., 0].all()):
        return dict(batch)
    last = mask.dim() - 1
    order = torch.argsort(mask, dim=last, descending=True, stable=True)

    def moved(value: Tensor) -> Tensor:
        if value.shape[: last + 1] != mask.shape:
            return value
        return value.take_along_dim(order.view(*mask.shape, *[1] * (value.dim() - last - 1)), last)

    return {name: moved(value) for name, value in batch.items()}


def without_empty(batch: Batch) -> dict[str, Tensor]:
    """Leave out samples that are all padding: they would count in means, and say nothing."""
    mask = batch.get("attention_mask")
    if mask is None or not len(mask):
        return dict(batch)
    filled = mask.flatten(1).any(1)
    if bool(filled.all()):
        return dict(batch)
    return take_samples(batch, filled.nonzero()[:, 0])


def take_samples(batch: Batch, rows: Tensor | list[int]) -> dict[str, Tensor]:
    """Take some samples of a batch; what is not of samples stays as it is."""
    size = samples_in(batch)
    return {k: v[rows] if v.dim() and len(v) == size else v for k, v in batch.items()}


def samples_in(batch: Batch) -> int:
    """Count the samples of a batch."""
    first = next((batch[k] for k in ("input_ids", "inputs_embeds") if k in batch), None)
    return len(next(iter(batch.values())) if first is None else first)


def valid_tokens(batch: Batch) -> Tensor:
    """Return which tokens are real; shape (sequences, tokens), bool.

    A sample is one sequence, or in multiple choice one per choice.
    """
    mask = batch.get("attention_mask")
    if mask is None:
        first = batch["input_ids"] if "input_ids" in batch else batch["inputs_embeds"][..., 0]
        mask = torch.ones_like(first, dtype=torch.bool)
    return mask.bool().flatten(0, -2)


def call(model: nn.Module, batch: Batch) -> Any:
    """Run the model on a batch: without labels, and with no argument that it does not know."""
    known = inspect.signature(model.forward).parameters
    named = [n for n, p in known.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    inputs = {k: v for k, v in batch.items() if k not in LABELS and (k in known or not named)}
    extra = {"use_cache": False} if "use_cache" in known else {}
    try:
        return model(**inputs, **extra)
    except (DeadheadError, torch.OutOfMemoryError):
        raise
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        given = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise DataError(
            f"a {type(model).__name__} cannot run a batch of {given or 'nothing'} ({reason:.200});"
            " give batches that this model takes"
        ) from error


LABELS = ("labels", "start_positions", "end_positions")


def check_batch(batch: Any, number: int = 0, vocabulary: int | None = None) -> None:
    """Refuse what is no batch for a model of so many tokens."""
    odd = None if isinstance(batch, Mapping) else type(batch).__name__
    for name, value in batch.items() if odd is None else ():
        odd = odd or (None if isinstance(value, Tensor) else f"{type(value).__name__} as {name!r}")
    if odd is not None or not batch:
        raise DataError(
            f"batch {number} holds {odd or 'nothing'}; give a dictionary of tensors, as a"
            " tokenizer makes with return_tensors='pt'"
        )
    first = next((batch[k] for k in ("input_ids", "inputs_embeds") if k in batch), None)
    if first is None:
        raise DataError(
            f"batch {number} has no input_ids, only {', '.join(batch)}; give what the tokenizer"
            " returns"
        )
    tokens = first.shape[:-1] if "input_ids" not in batch else first.shape
    if len(tokens) < 2:
        raise DataError(
            f"batch {number} has input_ids of shape {list(first.shape)}; give one row per sample,"
            " as a DataLoader or a tokenizer with return_tensors='pt' does"
        )
    mask = batch.get("attention_mask")
    if mask is not None and mask.shape != tokens:
        raise DataError(
            f"batch {number} has an attention_mask of shape {list(mask.shape)} for tokens of shape"
            f" {list(tokens)}; give one that says of each token whether it is text"
        )
    if vocabulary is None or "input_ids" not in batch or not first.numel():
        return
    if first.is_floating_point():
        raise DataError(f"batch {number} has input_ids of {first.dtype}; give whole numbers")
    least, most = int(first.min()), int(first.max())
    if least < 0 or most >= vocabulary:
        raise DataError(unknown_token(most if least >= 0 else least, vocabulary))


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


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to a device."""
    return {k: v.to(device) for k, v in batch.items()}
