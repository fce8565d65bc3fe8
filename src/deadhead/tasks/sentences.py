"""Sentences and pairs of them: to calibrate on, and what kinds of one label per text share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.examples import Examples
from deadhead.data.rows import (
    LABEL_COLUMNS,
    Columns,
    Rows,
    label_column,
    read_texts,
    targets_of,
)
from deadhead.data.tokens import TokenSequence, encode
from deadhead.errors import DataError
from deadhead.tasks.evaluation import Evaluation, other_shape
from deadhead.tasks.task import BatchedTask


class LabeledTexts(BatchedTask):
    """Texts, with the labels that the model is trained with or without any.

    Texts beyond `max_length` are truncated.
    """

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **limits: Any) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        labels = examples.labels
        self.targets = None if labels is None else targets_of(labels, config).numpy()

    label_columns = LABEL_COLUMNS

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the texts, and the labels if there are any, in rows of a table."""
        label = label_column(rows, columns, cls.label_columns)
        return read_texts(rows, columns._replace(label=label), labels=True)

    @classmethod
    def is_in(cls, rows: Rows, columns: Columns) -> bool:
        """Whether rows have labels."""
        return label_column(rows, columns, cls.label_columns) in rows.columns

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize the texts with the special tokens of the model."""
        sequences = encode(self.examples.texts, self.tokenizer, self.max_length)
        empty = next((row for row, sequence in enumerate(sequences) if not sequence.ids), None)
        if empty is not None:
            raise DataError(f"example {empty} of {self.name!r} has no tokens; remove it")
        return sequences

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return the labels of a batch: (batch,), of a multi-label model (batch, labels)."""
        return {} if self.targets is None else {"labels": torch.from_numpy(self.targets[rows])}


class Sentences(LabeledTexts):
    """Texts to calibrate on, with labels or without any."""

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Refuse: there is no metric."""
        raise DataError(f"{self.name!r} can calibrate, not judge; give a test set with labels")

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Refuse, as `evaluate` does."""
        return self.evaluate(nn.Module())


class LabelTask(LabeledTexts):
    """Judge a model that predicts a class, several labels or a number for each text."""

    targets: np.ndarray
    purposes = ("classification",)

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **limits: Any) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        if examples.labels is None:
            raise DataError(
                f"task kind {self.kind!r} does not fit: the examples have no labels; give them;"
                " other data can calibrate only"
            )

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the texts and labels in rows of a table."""
        if label_column(rows, columns, cls.label_columns) is None:
            raise DataError(
                f"task kind {cls.kind!r} does not fit {rows.source!r}: no label among its columns"
                f" {', '.join(rows.columns)}; name it with --label-column (label_column)"
            )
        return super().read(rows, columns)

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the logits, (batch, labels)."""
        logits = super().predict(model, outputs, batch)
        if logits.dim() != 2 or logits.shape[1] != self.config.num_labels:
            wanted = f"[examples, {self.config.num_labels}], as the config has num_labels"
            raise other_shape(model, logits, wanted, self.kind)
        return logits

    def references(self, rows: np.ndarray) -> np.ndarray:
        """Return the targets, as the Trainer gives them."""
        return self.targets[rows]
