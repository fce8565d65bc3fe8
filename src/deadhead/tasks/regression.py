"""A number for each text, such as how similar two sentences are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deadhead.data.rows import LABEL_COLUMNS
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.sentences import LabelTask
from deadhead.tasks.task import register_task


@register_task("regression")
class RegressionTask(LabelTask):
    """Judge a model of one number by Pearson correlation; Spearman and mean squared error as well.

    Columns `score` and `similarity` are read as labels too (STS-B). Numbers are compared as the
    data have them; correlations do not depend on their scale.

    Unit: correlations in [-1, 1]; higher is better. mse, in squared units of the labels: lower.
        A model that gives every text the same number has no correlation: 0.
    """

    metric = "pearson"
    lower_is_better = ("mse",)
    averages = False
    label_columns = (*LABEL_COLUMNS, "score", "similarity")
    wants = "a model with 1 label"

    @classmethod
    def unfit(cls, config: Any) -> str | None:
        """Say why a model does not predict one number."""
        problem = getattr(config, "problem_type", None)
        if problem in (None, "regression") and config.num_labels == 1:
            return None
        return f"the model has {config.num_labels} labels and problem_type={problem!r}"

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Correlate the numbers with the right ones."""
        targets = self.targets[rows].astype(np.float64)
        found = np.asarray(answers, dtype=np.float64)[:, 0]
        errors = (found - targets) ** 2
        pearson, spearman = correlations(found, targets)
        metrics = {"pearson": pearson, "spearman": spearman, "mse": float(errors.mean())}
        return Evaluation("pearson", pearson, metrics, errors)

    def ideal(self) -> Sequence[Any]:
        """Return the right numbers."""
        return [np.array([target]) for target in self.targets]


def correlations(found: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Return Pearson and Spearman correlation; 0 if all found are equal, NaN if all targets are."""
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(targets) == 0:
        return math.nan, math.nan
    if np.ptp(found) == 0:
        return 0.0, 0.0
    both: list[Any] = [pearsonr(found, targets), spearmanr(found, targets)]
    pearson, spearman = (float(each.statistic) for each in both)
    return pearson, spearman
