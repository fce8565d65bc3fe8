"""A class for each text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.sentences import LabelTask
from deadhead.tasks.task import register_task


@register_task("classification")
class ClassificationTask(LabelTask):
    """Judge a classifier by accuracy; macro F1 and Matthews correlation are measured as well.

    A label that is a name of the model's `label2id` means that class, upper or lower case; any
    other whole number means the class of that index. Texts beyond `max_length` are truncated.

    Unit: fractions in [0, 1] (mcc in [-1, 1]); higher is better.
    """

    metric = "accuracy"
    wants = "a model with 2 or more classes, one of them right"

    @classmethod
    def unfit(cls, config: Any) -> str | None:
        """Say why accuracy cannot judge a model: it needs one right class of several."""
        problem = getattr(config, "problem_type", None)
        if problem in (None, "single_label_classification") and config.num_labels > 1:
            return None
        return f"the model has {config.num_labels} labels and problem_type={problem!r}"

    @property
    def guessed(self) -> float:
        """Accuracy of always naming the most common class of these examples."""
        return float(np.bincount(self.targets).max() / self.size)

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Compare the likeliest classes with the right ones."""
        from sklearn.metrics import f1_score, matthews_corrcoef  # takes a second to import

        targets, predicted = self.targets[rows], np.argmax(answers, axis=1)
        correct = (predicted == targets).astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model that predicts one class divides by zero
            metrics = {
                "accuracy": float(correct.mean()),
                "macro_f1": float(f1_score(targets, predicted, average="macro")),
                "mcc": float(matthews_corrcoef(targets, predicted)),
            }
        return Evaluation("accuracy", metrics["accuracy"], metrics, correct)

    def ideal(self) -> Sequence[Any]:
        """Return logits of 10 for the right classes."""
        return [10 * row for row in np.eye(self.config.num_labels, dtype=np.float32)[self.targets]]
