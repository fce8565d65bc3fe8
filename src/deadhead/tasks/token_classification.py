"""A label for each word of a text: named entities, parts of speech."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows, class_of, read_labels
from deadhead.data.tokens import TokenSequence, text_windows
from deadhead.errors import DataError
from deadhead.tasks.evaluation import Evaluation, finite, judged_logits, other_shape, ratio_of_sums
from deadhead.tasks.metrics import IGNORED, for_trainer
from deadhead.tasks.packages import metric_package
from deadhead.tasks.task import BatchedTask, register_task

WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "pos_tags", "upos")
_ENTITY = re.compile(r"O|[BIOESLU]-.+|.+-[BIOESLU]")


@register_task("token_classification")
class TokenClassificationTask(BatchedTask):
    """Judge a model of labels for words by entity F1 (seqeval) and accuracy.

    Columns: `tokens` or `words`, a list of words, and `ner_tags`, `tags` or `labels`, as many names
    or numbers. A word's label is that of its first token; long texts are cut into windows, so that
    every word is judged; words without any token are left out. If the model's label names are no
    entities (B-PER, I-PER, O), as parts of speech are not, accuracy judges alone.

    Unit: fractions in [0, 1]; higher is better. f1, precision and recall are of whole entities,
        accuracy of words.
    Source: seqeval, in its default mode, which counts as conlleval does.
    """

    metric = "f1"
    purposes = ("token_classification",)
    wants = "a ...ForTokenClassification model"

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **limits: Any) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        labels: Any = examples.labels
        known = {tag: class_of(tag, config) for _, tags in labels for tag in tags}
        self.targets = [np.array([known[tag] for tag in tags]) for _, tags in labels]
        self.names = [str(config.id2label[i]) for i in range(config.num_labels)]
        self.has_entities = all(_ENTITY.fullmatch(name) for name in self.names)
        if self.has_entities:
            metric_package("seqeval.metrics.sequence_labeling", "seqeval", self.kind)
        else:
            self.metric = "accuracy"

    @classmethod
    def is_in(cls, rows: Rows, columns: Columns) -> bool:
        """Whether rows have words and tags."""
        words, tags = _columns(rows, columns)
        return words in rows.columns and tags in rows.columns

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find words and tags in rows of a table."""
        names = _columns(rows, columns)
        if None in names:
            raise DataError(
                f"task kind {cls.kind!r} does not fit {rows.source!r}: no words or no tags among"
                f" its columns {', '.join(rows.columns)}; name them {WORD_COLUMNS[0]} and"
                f" {TAG_COLUMNS[0]}, or with text_column and label_column"
            )
        words, tags = rows.lists(names[0] or "", of=str), read_labels(rows, names[1] or "")
        for row, (some, marks) in enumerate(zip(words, tags, strict=True)):
            count = len(marks) if isinstance(marks, tuple) else 0
            if count != len(some) or not some:
                raise DataError(
                    f"row {row} of {rows.source!r} has {len(some)} words and {count} tags; give"
                    " lists of one tag for each word, and at least one word"
                )
        labels = list(zip(words, tags, strict=True))
        return Examples([(" ".join(some),) for some in words], labels, origins=rows.origins)

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize the words, in windows; note at which token each word begins."""
        labels: Any = self.examples.labels
        found = text_windows(
            [words for words, _ in labels],
            tokenizer=self.tokenizer,
            limit=self.max_length,
            words=True,
        )
        self._begins: list[tuple[int, list[int], list[int]]] = []
        seen: list[set[int]] = [set() for _ in labels]
        for window in found:
            places, words = [], []
            for place, word in enumerate(window.words):
                if word is not None and word not in seen[window.owner]:
                    seen[window.owner].add(word)
                    places.append(place)
                    words.append(word)
            self._begins.append((window.owner, places, words))
        self._words = [np.array(sorted(words), dtype=np.int64) for words in seen]
        return [window.sequence for window in found]

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return labels (batch, tokens): a word's at its first token, -100 elsewhere."""
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, number in zip(labels, rows, strict=True):
            owner, places, words = self._begins[number]
            row[places] = torch.from_numpy(self.targets[owner][words])
        return {"labels": labels}

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the logits, (batch, tokens, labels)."""
        logits, labels = judged_logits(model, outputs), batch["labels"]
        wanted = (*labels.shape, self.config.num_labels)
        if logits.shape != wanted:
            raise other_shape(model, logits, str(list(wanted)), self.kind)
        return finite(logits.masked_fill((labels == IGNORED)[..., None], 0))

    def answers(self, predictions: list[np.ndarray]) -> Sequence[Any]:
        """Return the logits of each text's words, (words, labels)."""
        found = [[np.empty((0, self.config.num_labels), np.float32)] for _ in range(self.size)]
        for logits, (owner, places, _) in zip(predictions, self._begins, strict=True):
            found[owner].append(logits[places])
        return [np.concatenate(parts) for parts in found]

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Compare the entities and the labels of words with the right ones."""
        pairs = [(a.argmax(1), w) for a, w in zip(answers, self._wanted(rows), strict=True)]
        right = np.array([(found == wanted).sum() for found, wanted in pairs])
        words = np.array([len(wanted) for _, wanted in pairs])
        accuracy, shares = ratio_of_sums(right, words)
        if not self.has_entities:
            return Evaluation("accuracy", accuracy, {"accuracy": accuracy}, shares, words)
        counts = np.array([self._counts(found, wanted) for found, wanted in pairs])
        hits, predicted, true = counts.T
        f1, shares = ratio_of_sums(2 * hits, predicted + true)
        metrics = {
            "f1": f1,
            "precision": ratio_of_sums(hits, predicted)[0],
            "recall": ratio_of_sums(hits, true)[0],
            "accuracy": accuracy,
        }
        return Evaluation("f1", f1, metrics, shares, weights=predicted + true)

    def _counts(self, found: np.ndarray, wanted: np.ndarray) -> tuple[int, int, int]:
        """Count entities: those that are right, those that are predicted, those that are there."""
        seqeval = metric_package("seqeval.metrics.sequence_labeling", "seqeval", self.kind)
        predicted, true = (
            set(seqeval.get_entities([self.names[i] for i in tags])) for tags in (found, wanted)
        )
        return len(predicted & true), len(predicted), len(true)

    def _wanted(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the right labels of the words that have tokens."""
        _ = self.sequences  # makes `_words`
        return [self.targets[row][self._words[row]] for row in rows]

    def references(self, rows: np.ndarray) -> Any:
        """Return the right labels of the words, padded with -100."""
        return for_trainer(self._wanted(rows))

    def ideal(self) -> Sequence[Any]:
        """Return logits of 10 for the right labels."""
        classes = 10 * np.eye(self.config.num_labels, dtype=np.float32)
        return [classes[wanted] for wanted in self._wanted(np.arange(self.size))]


def _columns(rows: Rows, columns: Columns) -> tuple[str | None, str | None]:
    return (
        columns.text or rows.first_column(WORD_COLUMNS),
        columns.label or rows.first_column(TAG_COLUMNS),
    )
