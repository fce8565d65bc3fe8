"""Any number of labels for each text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.sentences import LabelTask
from deadhead.tasks.task import register_task


@register_task("multi_label")
class MultiLabelTask(LabelTask):
    """Judge a model of several labels per text by micro F1; macro F1 and exact match as well.

    A label is predicted if its probability is above one half. Labels are given as a list of 0 and
    1, one for each of the model's labels, or as a list of names of its `label2id`.

    Unit: fractions in [0, 1]; higher is better. exact_match: of texts whose labels are all right.
    """

    metric = "micro_f1"
    wants = "a model of problem_type 'multi_label_classification'"

    @classmethod
    def unfit(cls, config: Any) -> str | None:
        """Say why a model does not predict several labels."""
        problem = getattr(config, "problem_type", None)
        return None if problem == "multi_label_classification" else f"its problem_type is {problem}"

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Compare the labels that are predicted with the right ones."""
        from sklearn.metrics import f1_score

        targets, predicted = self.targets[rows] > 0.5, np.asarray(answers) > 0
        named = (targets + 0 + predicted).sum(1).astype(np.float64)  # right and predicted ones
        hits = 2 * (targets & predicted).sum(1)
        shares = np.divide(hits, named, out=np.zeros(len(rows)), where=named > 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a label that is nowhere divides by zero
            metrics = {
                "micro_f1": float(f1_score(targets, predicted, average="micro")),
                "macro_f1": float(f1_score(targets, predicted, average="macro")),
                "exact_match": float((targets == predicted).all(1).mean()),
            }
        return Evaluation("micro_f1", metrics["micro_f1"], metrics, shares, weights=named)

    def ideal(self) -> Sequence[Any]:
        """Return logits of 10 for the right labels and of -10 for the others."""
        return [np.where(row > 0.5, 10.0, -10.0).astype(np.float32) for row in self.targets]
