"""Classification of a sentence or of a pair of sentences."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn

from deadhead.data.batching import cannot_judge, evaluating
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows
from deadhead.data.texts import label_column
from deadhead.errors import DataError
from deadhead.models.purpose import purpose_of
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.sentences import Sentences
from deadhead.tasks.task import BatchedTask, register_task


@register_task("classification")
class ClassificationTask(Sentences):
    """Judge a classifier by accuracy; macro F1 and Matthews correlation are measured as well.

    A label that is a name of the model's `label2id` means that class, upper or lower case; any
    other whole number means the class of that index. Texts beyond `max_length` are truncated.
    """

    metric = "accuracy"

    def __init__(self, examples: Examples, tokenizer, *, config, **limits) -> None:
        if purpose_of(config) not in ("classification", "other", "unknown"):
            raise DataError(
                f"task kind 'classification' does not fit {config.architectures[0]!r}: it has no"
                " classes; use 'minimal_pairs' or 'perplexity', or a ...ForSequenceClassification"
                " model"
            )
        if not can_judge(type(self), config):
            problem = getattr(config, "problem_type", None)
            raise DataError(
                f"accuracy does not fit a model with {config.num_labels} labels and"
                f" problem_type={problem!r} in its config; classification needs 2 or more classes,"
                " one of them right; such data can calibrate only"
            )
        if examples.labels is None:
            raise DataError("the examples have no labels; classification needs one each")
        super().__init__(examples, tokenizer, config=config, **limits)

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
