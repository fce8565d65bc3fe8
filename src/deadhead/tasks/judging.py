"""What judges: from the outputs of a model to answers, and from these to a metric."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.tokens import Packed
from deadhead.errors import DataError, ScoreError, check_name
from deadhead.models.purpose import Purpose, purpose_of
from deadhead.tasks.evaluation import (
    Evaluation,
    cannot_judge,
    evaluating,
    finite,
    judged_logits,
    other_shape,
)
from deadhead.tasks.metrics import ComputeMetrics, OwnMetrics, for_trainer, own_evaluation


class Judging(ABC):
    """How a kind of task judges a model, of text or of anything else.

    A model runs on the batches of `packed_for`; `predict` turns its outputs for each into a row per
    sequence, `answers` turns these into an answer per example, and `judge` compares answers with
    what is right. A kind says these; what they share is here.

    Attributes:
        kind: name in the registry.
        name: where the data came from, for people.
        metric: what judges, of the metrics of the kind.
        greater_is_better: whether more of it is better.
        lower_is_better: of all metrics of the kind, those of which less is better.
        averages: whether the kind's own metric is the mean of `Evaluation.per_example`, weighted.
        own: a metric of the user's own instead.
        purposes: what the models that this kind judges are made for; none: anything.
        wants: such a model, for messages.
        costly: judges only if it is asked to, as an evaluation takes many passes.
    """

    kind: str = ""
    name: str = ""
    metric: str = "accuracy"
    greater_is_better: bool = True
    lower_is_better: Collection[str] = ()
    averages: bool = True
    own: OwnMetrics | None = None
    purposes: Collection[Purpose] = ()
    wants: str = "another model"
    costly: bool = False

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of examples."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """Forward passes that `evaluate` makes."""

    @abstractmethod
    def packed_for(self, model: nn.Module) -> Iterable[Packed]:
        """Return the batches that `evaluate` runs, on the model's device."""

    @classmethod
    def unfit(cls, config: Any) -> str | None:
        """Say why this kind cannot judge a model, by its config; None if it can."""
        return None

    def refuse_other_models(self, config: Any) -> None:
        """Refuse a model that this kind does not judge, by its config.

        Raises:
            DataError: says what the kind needs.
        """
        made_for = (*self.purposes, "other", "unknown") if self.purposes else ()
        why = self.unfit(config)
        if made_for and purpose_of(config) not in made_for:
            why = f"{config.architectures[0]} is made for something else"
        if why is not None:
            raise DataError(
                f"task kind {self.kind!r} does not fit: {why}; it needs {self.wants}; use one, or"
                " another kind; other data can calibrate only"
            )

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Judging a model on all examples; the model is left as found.

        Cost: one forward pass per batch, and the metric.

        Raises:
            DataError: the outputs are not what this kind judges.
            ScoreError: they are not finite.
        """
        answers = self.answered(model)
        if self.own is not None:
            return own_evaluation(self, self.own, answers)
        found = self.judge(answers, np.arange(self.size))
        check_name(f"metric of {self.kind}:", self.metric, found.metrics)
        if math.isnan(found.metrics[self.metric]):
            raise ScoreError(
                f"{self.metric} is not defined on the {self.size} examples of {self.name!r}; give"
                f" more, or another --metric (metric) of {', '.join(found.metrics)}"
            )
        if found.metric == self.metric and self.averages:
            return found

        def value(rows: np.ndarray) -> float:
            return self.judge([answers[row] for row in rows], rows).metrics[self.metric]

        return replace(found, metric=self.metric, value=found.metrics[self.metric], statistic=value)

    def answered(self, model: nn.Module) -> Sequence[Any]:
        """Run the model and return an answer per example."""
        return self.answers(self.predictions(model))

    def predictions(
        self, model: nn.Module, packed: Sequence[Packed] | None = None
    ) -> list[np.ndarray]:
        """Run the model and return a prediction per sequence, in their order before packing.

        What `predict` makes of a batch, row by row, padding included.

        Args:
            model: the model; it is left as found.
            packed: batches to run instead of those of the task.
        """
        found: list[tuple[np.ndarray, torch.Tensor]] = []
        of = self.passes if packed is None else len(packed)

        def check(values: torch.Tensor, number: int) -> None:
            if bool(values.isnan().any()):
                raise cannot_judge(self.name, number, of)

        with evaluating(model) as outputs_of:
            for number, p in enumerate(packed or self.packed_for(model)):
                values = self.predict(model, outputs_of(p.batch), p.batch)
                if len(values) != len(p.rows):
                    raise other_shape(model, values, f"{len(p.rows)} examples", self.kind)
                if values.is_cpu:  # a GPU is asked after all batches, so that none waits
                    check(values, number)
                found.append((p.rows, values))
        ordered: list[Any] = [None] * sum(len(rows) for rows, _ in found)
        for number, (rows, values) in enumerate(found):
            check(values, number)
            values = values.cpu()
            values = values.float() if values.dtype == torch.bfloat16 else values  # not in numpy
            for row, value in zip(rows, values.numpy(), strict=True):
                ordered[row] = value
        return ordered

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Turn the outputs for a batch into a row per sequence; NaN where it cannot be judged.

        The logits, unless a kind says otherwise.
        """
        return finite(judged_logits(model, outputs))

    def answers(self, predictions: list[np.ndarray]) -> Sequence[Any]:
        """Return an answer per example from the predictions for sequences; the same by default."""
        return predictions

    @abstractmethod
    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Compare answers with the targets of the examples at `rows`, by all metrics."""

    def for_trainer(self, answers: Sequence[Any]) -> Any:
        """Return answers as the `predictions` of the Trainer."""
        return for_trainer(answers)

    def ideal(self) -> Sequence[Any]:
        """Return the answers of a model that is always right, to try a metric of one's own."""
        raise self._has_none

    def references(self, rows: np.ndarray) -> Any:
        """Return the `label_ids` of the examples at `rows`, for a metric of one's own."""
        raise self._has_none

    @property
    def _has_none(self) -> DataError:
        return DataError(
            f"task kind {self.kind!r} has no predictions and labels for compute_metrics, but its"
            f" own {self.metric}; leave compute_metrics out"
        )

    def judged_by(
        self,
        compute_metrics: ComputeMetrics | None = None,
        metric: str | None = None,
        greater_is_better: bool | None = None,
    ) -> Self:
        """Return this task with another metric; see `open_task`."""
        made = copy.copy(self)
        if compute_metrics is not None:
            made.own = OwnMetrics(compute_metrics)
            right, rows = self.for_trainer(self.ideal()), np.arange(self.size)
            tried = made.own(right, self.references(rows))
            metric = metric or next(iter(tried))
            check_name(f"metric of {made.own.name}:", metric, tried)
        made.metric = metric or self.metric
        known = made.own is not None or made.metric not in self.lower_is_better
        made.greater_is_better = known if greater_is_better is None else greater_is_better
        return made

    def notes(self) -> list[str]:
        """Say what a user should know of the examples or the cost, a line each."""
        return []

    @property
    def chance(self) -> float | None:
        """What the metric is without a model; None where that has no meaning."""
        return self.guessed if self.own is None and self.metric == type(self).metric else None

    @property
    def guessed(self) -> float | None:
        """What this kind's own metric is without a model; None where that has no meaning."""
        return None
