"""Images and recordings as batches: what a model's processor makes of them, when it is needed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from deadhead.data.batches import Batch
from deadhead.data.inputs import MAIN_INPUTS, main_input, tokens_in
from deadhead.data.media import Media, image_of, samples_of, wave_of
from deadhead.data.readers import feature_extractor_in, image_processor_in
from deadhead.data.tokens import Packed, length_runs
from deadhead.errors import DataError
from deadhead.files import one_line

# decoded batches are kept in memory up to this, of each set; the others are decoded each time
KEPT_BYTES = 2**30


class LazyBatches(Sequence[Packed]):
    """Batches that are made when they are asked for, and kept while there is room.

    Args:
        rows: which examples are in each batch.
        load: makes the batch of a number.
        room: bytes to keep.
    """

    def __init__(
        self, rows: Sequence[np.ndarray], load: Callable[[int], Batch], room: int = KEPT_BYTES
    ) -> None:
        self.rows, self._load, self._room = list(rows), load, room
        self._kept: dict[int, Batch] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        batch = self._kept.get(number)
        if batch is None:
            batch = self._load(number)
            size = sum(tensor.nbytes for tensor in batch.values())
            if size <= self._room:
                self._room -= size
                self._kept[number] = batch
        return Packed(self.rows[number], dict(batch))

    def __iter__(self) -> Iterator[Packed]:
        return (self[number] for number in range(len(self)))


def image_batch(media: Sequence[Media], reader: Any) -> Batch:
    """Decode images and give them to a model's image processor.

    Raises:
        DataError: an image is broken, there is no image processor, or it makes other than one row
            per image.
        MissingDependencyError: Pillow is not installed.
    """
    processor = image_processor_in(reader)
    images = [image_of(each) for each in media]
    return _checked(lambda: processor(images, return_tensors="pt"), processor, len(media))


def image_runs(
    media: Sequence[Media], reader: Any, *, batch_size: int | None, max_tokens: int
) -> list[np.ndarray]:
    """Divide images into batches; decodes the first to see how many tokens an image has."""
    each = tokens_in(image_batch(media[:1], reader))
    runs = length_runs([each] * len(media), batch_size=batch_size, max_tokens=max_tokens)
    return [np.arange(len(media))[run] for run in runs]


def sampling_rate(reader: Any) -> int:
    """Return the samples per second that a model's feature extractor takes."""
    extractor = feature_extractor_in(reader)
    rate = getattr(extractor, "sampling_rate", None)
    if not isinstance(rate, int) or rate < 1:
        raise DataError(
            f"the {type(extractor).__name__} has no sampling_rate; write it in"
            " preprocessor_config.json"
        )
    return rate


def sound_batch(media: Sequence[Media], reader: Any) -> Batch:
    """Decode recordings at the model's rate and give them to its feature extractor.

    Raises:
        DataError: a recording is broken, or longer than the extractor takes; there is no extractor.
        MissingDependencyError: soundfile, or a package of the extractor, is not installed.
    """
    extractor, rate = feature_extractor_in(reader), sampling_rate(reader)
    waves = [wave_of(each, rate) for each in media]
    most = getattr(extractor, "n_samples", None)  # of Whisper, which would cut the rest off
    for each, wave in zip(media, waves, strict=True):
        if most is not None and len(wave) > most:
            raise DataError(
                f"{each.name!r} has {len(wave) / rate:.1f} seconds, and the model takes"
                f" {most / rate:.1f}; cut it, or remove it"
            )
    how: dict[str, Any] = {"sampling_rate": rate, "return_tensors": "pt"}
    padding = inspect.signature(type(extractor).__call__).parameters.get("padding")
    if padding is not None:  # of Whisper to its fixed length, else to the longest
        how["padding"] = padding.default or True
    return _checked(lambda: extractor(waves, **how), extractor, len(media))


def sound_runs(
    media: Sequence[Media], reader: Any, *, batch_size: int | None, max_tokens: int
) -> list[np.ndarray]:
    """Divide recordings into batches, longest first.

    Where a model gets no mask of the padding it would hear it: then only recordings of one length
    are together.
    """
    extractor, rate = feature_extractor_in(reader), sampling_rate(reader)
    lengths = np.array([samples_of(each, rate) for each in media])
    fixed = getattr(extractor, "n_samples", None)
    tokens = np.ceil(lengths / MAIN_INPUTS["input_values"]).astype(int)
    if fixed is not None:
        tokens[:] = math.ceil(fixed / MAIN_INPUTS["input_values"])
    order = np.argsort(-lengths, kind="stable")
    padded = fixed is not None or getattr(extractor, "return_attention_mask", True)
    same = (lambda _: 0) if padded else lambda row: lengths[row]
    groups: dict[int, list[int]] = {}
    for row in order:
        groups.setdefault(int(same(row)), []).append(int(row))
    runs = []
    for rows in groups.values():
        cuts = length_runs(list(tokens[rows]), batch_size=batch_size, max_tokens=max_tokens)
        runs += [np.array(rows)[run] for run in cuts]
    return runs


def _checked(make: Callable[[], Any], processor: Any, samples: int) -> Batch:
    """Take the tensors that a processor makes, if it makes a row for each sample."""
    name = type(processor).__name__
    try:
        made = make()
    except ImportError:
        raise
    except Exception as error:  # each processor has its own
        raise DataError(
            f"the {name} fails ({one_line(error, longest=160)}); check its"
            " preprocessor_config.json, and that it belongs to the model"
        ) from error
    batch = {str(k): v for k, v in made.items() if isinstance(v, torch.Tensor)}
    found = main_input(batch)
    if found is None or len(found[1]) != samples:
        shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in batch.items())
        raise DataError(
            f"the {name} makes {shapes or 'no tensors'} of {samples} files, which is not one row"
            " each; give batches that this model takes"
        )
    return batch
