"""Images and recordings: to calibrate on, and what kinds that judge by them share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from torch import nn

from deadhead.data.batches import Batch, to_device
from deadhead.data.encoding import LazyBatches, image_batch, image_runs, sound_batch, sound_runs
from deadhead.data.examples import Examples
from deadhead.data.given import check_tokenizer
from deadhead.data.media import Media, media_in, media_of
from deadhead.data.readers import tokenizer_in
from deadhead.data.rows import LABEL_COLUMNS, Columns, Rows, read_labels
from deadhead.data.tokens import Packed, TokenSequence
from deadhead.errors import DataError
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.task import BatchedTask, device_of

CAPTIONS = ("text", "caption")
WHAT = {"image": "images", "audio": "recordings"}


class MediaTask(BatchedTask):
    """Images or recordings, decoded when they are run, in batches of like length.

    `max_length` does not apply: the model's processor says how large they are.

    Args: as of `BatchedTask`; `tokenizer` is the model's processor, image processor or feature
        extractor.
    """

    reads: Literal["text", "image", "audio"] = "image"

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the files in rows of a table, or of a folder."""
        return Examples([(each,) for each in cls.media(rows, columns)], origins=rows.origins)

    @classmethod
    def media(cls, rows: Rows, columns: Columns) -> list[Any]:
        """Read the column of files: the one that is named, or the first that holds such files.

        Raises:
            DataError: there is none, or a file is not there.
        """
        found = media_in(rows, columns.media)
        if found is None or found[0] != cls.reads:
            raise DataError(
                f"{rows.source!r} has no column of {WHAT[cls.reads]} among its columns"
                f" {', '.join(rows.columns)}; name it with --media-column (media_column), or give a"
                " folder of them"
            )
        return media_of(rows, found[1])

    def longest(self, asked: int | None) -> int | None:
        """Return None: the processor decides."""
        return None

    def tokenize(self) -> list[TokenSequence]:
        """Refuse: there are no tokens."""
        raise DataError(f"{self.name!r} has {WHAT[self.reads]}, which are no tokens; use batches()")

    def decode(self, rows: np.ndarray) -> Batch:
        """Decode the examples at some rows into what the model takes."""
        media: list[Media] = [self.examples.texts[int(row)][0] for row in rows]
        make = image_batch if self.reads == "image" else sound_batch
        return make(media, self.tokenizer)

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return what else is in a batch: nothing, unless a kind says otherwise."""
        return {}

    @cached_property
    def runs(self) -> list[np.ndarray]:
        """Which examples are in which batch."""
        media: list[Media] = [texts[0] for texts in self.examples.texts]
        divide = image_runs if self.reads == "image" else sound_runs
        limits = {"batch_size": self.batch_size, "max_tokens": self.max_tokens}
        return divide(media, self.tokenizer, **limits)

    @cached_property
    def _packed(self) -> Sequence[Packed]:
        def load(number: int) -> Batch:
            batch = self.decode(self.runs[number])
            return {**batch, **self.label(batch, self.runs[number])}

        return LazyBatches(self.runs, load)

    def packed_for(self, model: nn.Module) -> Sequence[Packed]:
        """Return what `evaluate` runs, moved to the model's device one by one."""
        device = device_of(model)
        packed = self.evaluated
        return LazyBatches(
            self.runs, lambda number: to_device(packed[number].batch, device), room=0
        )


def is_dual(config: Any) -> bool:
    """Whether a model embeds images and texts side by side, as CLIP does, and has no other head."""
    names = getattr(config, "architectures", None) or ["Model"]
    towers = all(hasattr(config, f"{what}_config") for what in ("text", "vision"))
    return towers and names[0].endswith("Model")


def text_inputs(texts: Sequence[str], task: MediaTask) -> Batch:
    """Tokenize texts that go beside images, all to the length that the model has for texts."""
    tokenizer = tokenizer_in(task.tokenizer)
    check_tokenizer(tokenizer)
    most = int(task.config.text_config.max_position_embeddings)
    how = {"padding": "max_length", "truncation": True, "max_length": most}
    made = tokenizer(list(texts), return_tensors="pt", **how)
    return {name: made[name] for name in ("input_ids", "attention_mask") if name in made}


class UnlabeledMedia(MediaTask):
    """Images or recordings to calibrate on, without labels."""

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Refuse: there is no metric."""
        raise DataError(f"{self.name!r} can calibrate, not judge; give a test set with labels")

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Refuse, as `evaluate` does."""
        return self.evaluate(nn.Module())


class Images(UnlabeledMedia):
    """Images without labels; for a model of images and texts, each beside its text."""

    def __init__(self, examples: Examples, tokenizer: Any, **made: Any) -> None:
        super().__init__(examples, tokenizer, **made)
        if is_dual(self.config) and len(examples.texts[0]) < 2:
            raise DataError(
                f"{self.name!r} has images alone, and the model reads a text beside each; give a"
                " table with columns image and text, or a folder per class"
            )

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the images, and the texts beside them, or the names of their classes."""
        found = super().read(rows, columns)
        column = columns.text or rows.first_column((*CAPTIONS, *LABEL_COLUMNS))
        if column is None:
            return found
        texts = [str(getattr(each, "name", each)) for each in read_labels(rows, column)]
        both = [(media, text) for (media,), text in zip(found.texts, texts, strict=True)]
        return Examples(both, origins=found.origins)

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return the texts beside the images of a batch."""
        if not is_dual(self.config):
            return {}
        texts: list[str] = [self.examples.texts[int(row)][1] for row in rows]
        return text_inputs(texts, self)


class Recordings(UnlabeledMedia):
    """Recordings without transcripts."""

    reads = "audio"
