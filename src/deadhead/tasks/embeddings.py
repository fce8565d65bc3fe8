"""Embeddings of texts, by models without a head, such as those of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows, label_column, read_texts, text_columns
from deadhead.data.tokens import TokenSequence, encode
from deadhead.errors import DataError
from deadhead.losses.embeddings import Embedder, embedder_of
from deadhead.tasks.evaluation import Evaluation, finite
from deadhead.tasks.regression import correlations
from deadhead.tasks.task import BatchedTask, register_task

SCORES = ("score", "similarity_score", "similarity", "label", "labels")


class EmbeddedTexts(BatchedTask):
    """Texts for a model without a head, each alone, also those of a pair.

    They are read as the model's sentence-transformers folder says: with its prompt, and no more
    tokens than its `max_seq_length`; see `embedder_of`.
    """

    purposes = ("other",)
    wants = "a model without a head, such as AutoModel loads"

    @classmethod
    def unfit(cls, config: Any) -> str | None:
        """Say why a model has a head."""
        names = getattr(config, "architectures", None) or [""]
        return f"{names[0]} has a head" if "For" in names[0] else None

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the texts, or pairs of them, in rows of a table."""
        return read_texts(rows, columns)

    @cached_property
    def embed(self) -> Embedder:
        """What makes embeddings of the model's outputs."""
        return embedder_of(self.config)

    def longest(self, asked: int | None) -> int | None:
        """Return how many tokens of a text are read at most."""
        known = [n for n in (super().longest(asked), self.embed.max_length) if n is not None]
        return min(known) if known else None

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize each text once, with the special tokens and the prompt of the model."""
        unique: dict[str, int] = {}
        where = [
            [unique.setdefault(text, len(unique)) for text in texts]
            for texts in self.examples.texts
        ]
        self._places = np.array(where)  # (examples, texts)
        texts = [(self.embed.prompt + text,) for text in unique]
        return encode(texts, self.tokenizer, self.max_length)

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return no labels: embeddings are trained by losses of many kinds."""
        return {}

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the embeddings, (texts, features)."""
        return finite(self.embed(model, outputs, batch))

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Refuse: there is no metric."""
        raise DataError(f"{self.name!r} can calibrate, not judge; give a test set with scores")

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Refuse, as `evaluate` does."""
        return self.evaluate(nn.Module())


@register_task("embeddings")
class EmbeddingsTask(EmbeddedTexts):
    """Judge embeddings by how the cosines of pairs of texts rank them, as people have scored them.

    Columns: two texts (sentence1 and sentence2, ...) and score (STS). Spearman correlation judges,
    Pearson is measured as well; neither depends on the scale of the scores.

    Unit: correlations in [-1, 1]; higher is better. Equal cosines have no correlation: 0.
    Source: semantic textual similarity, Cer et al. 2017 (https://arxiv.org/abs/1708.00055).
    """

    metric = "spearman"
    averages = False

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **limits: Any) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        if examples.labels is None or len(examples.texts[0]) != 2:
            raise DataError(
                f"task kind {self.kind!r} does not fit: it needs pairs of texts with scores; texts"
                " alone can be the calibration"
            )
        numbers = [_number(label) for label in examples.labels]
        if None in numbers:
            row = numbers.index(None)
            raise DataError(
                f"score {examples.labels[row]!r} of example {row} of {self.name!r} is no number;"
                " write how similar the two texts are"
            )
        self.targets = np.array(numbers, dtype=np.float64)

    @classmethod
    def is_in(cls, rows: Rows, columns: Columns) -> bool:
        """Whether rows have pairs and scores."""
        label = label_column(rows, columns, SCORES)
        return label in rows.columns and _pair(rows, columns, label) is not None

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the pairs and scores in rows of a table."""
        if not cls.is_in(rows, columns):
            raise DataError(
                f"task kind {cls.kind!r} does not fit {rows.source!r}: no two texts and a score"
                f" among its columns {', '.join(rows.columns)}; name them with --text-column,"
                " --text-pair-column and --label-column, use a model with a head on top, or give"
                " texts alone as --calibration"
            )
        label = label_column(rows, columns, SCORES)
        return read_texts(rows, columns._replace(label=label), labels=True)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Judge a model on all pairs; see `Judging.evaluate`."""
        return super(EmbeddedTexts, self).evaluate(model)

    def answers(self, predictions: list[np.ndarray]) -> Sequence[Any]:
        """Return the cosine of each pair."""
        found = np.array(predictions, dtype=np.float64)
        found /= np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
        first, second = found[self._places].swapaxes(0, 1)
        return list((first * second).sum(1))

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Correlate the cosines with the scores."""
        found = np.asarray(answers)
        pearson, spearman = correlations(found, self.targets[rows])
        metrics = {"spearman": spearman, "pearson": pearson}
        return Evaluation("spearman", spearman, metrics, np.full(len(rows), np.nan))

    def ideal(self) -> Sequence[Any]:
        """Return the scores."""
        return list(self.targets)

    def references(self, rows: np.ndarray) -> np.ndarray:
        """Return the scores of the pairs at `rows`."""
        return self.targets[rows]


def _pair(rows: Rows, columns: Columns, label: str | None) -> str | None:
    try:
        return text_columns(rows, columns, label)[1]
    except DataError:
        return None


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None
