"""Parts of the data: samples of one length together, so that no pass computes padding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from deadhead.data.inputs import Batch, aligned, samples_in, valid_tokens, without_empty


@dataclass(frozen=True)
class Part:
    """Samples of one length, from one batch or several.

    Attributes:
        inputs: the samples, as the model takes them.
        batches: number of the batch that each was in, for messages.
    """

    inputs: dict[str, Tensor]
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
        return valid_tokens(self.inputs).numel()


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
    if holes or any(width in v.shape[1:] for v in others):
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
    size = max(1, max_tokens // valid_tokens(inputs).shape[1])
    return [
        Part({k: v[at : at + size] for k, v in inputs.items()}, tuple(batches[at : at + size]))
        for at in range(0, len(batches), size)
    ]
