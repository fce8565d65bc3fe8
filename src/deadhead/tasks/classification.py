"""Sentences and pairs of them: to calibrate on, and classification, which is judged."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows, label_column, read_texts, targets_of
from deadhead.data.tokens import TokenSequence, encode, single_rows
from deadhead.errors import DataError
from deadhead.models.purpose import purpose_of
from deadhead.tasks.evaluation import Evaluation, cannot_judge, evaluating
from deadhead.tasks.task import BatchedTask, register_task


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


@register_task("classification")
class ClassificationTask(Sentences):
    """Judge a classifier by accuracy; macro F1 and Matthews correlation are measured as well.

    A label that is a name of the model's `label2id` means that class, upper or lower case; any
    other whole number means the class of that index. Texts beyond `max_length` are truncated.
    """

    metric = "accuracy"

    def __init__(self, examples: Examples, tokenizer, *, config, **limits) -> None:
        problem = getattr(config, "problem_type", None)
        if purpose_of(config) not in ("classification", "other", "unknown"):
            why = f"{config.architectures[0]} has no classes"
        elif not can_judge(type(self), config):
            why = f"the model has {config.num_labels} labels and problem_type={problem!r}"
        elif examples.labels is None:
            why = "the examples have no labels"
        else:
            super().__init__(examples, tokenizer, config=config, **limits)
            return
        raise DataError(
            f"task kind 'classification' does not fit: {why}; give labels and a model with 2 or"
            " more classes, one of them right, or use 'minimal_pairs' or 'perplexity'; other data"
            " can calibrate only"
        )

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the texts and labels in rows of a table."""
        if label_column(rows, columns) is None:
            raise DataError(
                f"task kind 'classification' does not fit {rows.source!r}: no label among its"
                f" columns {', '.join(rows.columns)}; name it with --label-column (label_column)"
            )
        return super().read(rows, columns)

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most common class of these examples."""
        return float(np.bincount(np.asarray(self.targets)).max() / self.size)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Judge a classifier on all examples; the model is left as found.

        Unit: fractions in [0, 1] (mcc in [-1, 1]); higher is better.
        Cost: one forward pass per batch.
        """
        from sklearn.metrics import f1_score, matthews_corrcoef  # takes a second to import

        packed = self.packed_for(model)
        with evaluating(model) as logits:
            found = torch.cat([_classes(logits(p.batch)) for p in packed]).cpu().numpy()
        if (found < 0).any():
            ends = np.cumsum([len(p.rows) for p in packed])
            first = int(np.searchsorted(ends, np.argmax(found < 0), side="right"))
            raise cannot_judge(self.name, first, len(packed))
        predicted = np.empty(self.size, dtype=np.int64)
        predicted[np.concatenate([p.rows for p in packed])] = found
        correct = (predicted == self.targets).astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model that predicts one class divides by zero
            metrics = {
                "accuracy": float(correct.mean()),
                "macro_f1": float(f1_score(self.targets, predicted, average="macro")),
                "mcc": float(matthews_corrcoef(self.targets, predicted)),
            }
        return Evaluation(self.metric, metrics["accuracy"], metrics, correct)


def can_judge(kind: type[BatchedTask], config) -> bool:
    """Whether a kind of task can judge a model: accuracy needs one right class of several."""
    one = getattr(config, "problem_type", None) in (None, "single_label_classification")
    return not issubclass(kind, ClassificationTask) or (one and config.num_labels > 1)


def _classes(logits: torch.Tensor) -> torch.Tensor:
    """Return the likeliest class of each row; -1 where the logits are not finite."""
    return logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1)
