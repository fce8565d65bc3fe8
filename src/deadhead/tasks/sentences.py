"""Sentences, or pairs of them, as a classifier or an encoder reads them: nothing is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batching import Batch, TokenSequence, single_rows
from deadhead.data.encoding import encode
from deadhead.data.examples import Examples
from deadhead.data.labels import targets_of
from deadhead.data.rows import Columns, Rows
from deadhead.data.texts import read_texts
from deadhead.errors import DataError
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.task import BatchedTask


class Sentences(BatchedTask):
    """Texts to calibrate on, with the labels that the model is trained with or without any.

    Texts beyond `max_length` are truncated.
    """

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **limits: Any) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        if single_rows(config):
            self.batch_size = 1
        labels = examples.labels
        self.targets = None if labels is None else targets_of(labels, config).numpy()

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the texts, and the labels if there are any, in rows of a table."""
        return read_texts(rows, columns, labels=True)

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize the texts with the special tokens of the model."""
        sequences = encode(self.examples.texts, self.tokenizer, self.max_length)
        empty = next((row for row, sequence in enumerate(sequences) if not sequence.ids), None)
        if empty is not None:
            raise DataError(f"example {empty} of {self.name!r} has no tokens; remove it")
        return sequences

    def label(self, batch: Batch, rows: np.ndarray) -> torch.Tensor | None:
        """Return the labels of a batch: (batch,), of a multi-label model (batch, labels)."""
        return None if self.targets is None else torch.from_numpy(self.targets[rows])

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Refuse: there is no metric."""
        raise DataError(f"{self.name!r} can calibrate, not judge; give a test set with labels")
