"""What decides which weights of a distillation are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.data.inputs import Batch
from deadhead.models.modes import eval_mode
from deadhead.repair.distill.loss import Distance
from deadhead.repair.distill.state import copies
from deadhead.tasks import Task

Selection = Task | Callable[[nn.Module], float]


@dataclass(frozen=True)
class Judge:
    """A number that says how good a model is.

    Attributes:
        metric: its name.
        greater_is_better: False for perplexity, and for the distance from the dense model.
        measure: the number.
    """

    metric: str
    greater_is_better: bool
    measure: Callable[[nn.Module], float]

    def __call__(self, model: nn.Module) -> float:
        """Judge a model without gradients; it is left as found."""
        with eval_mode(model), torch.no_grad():
            return float(self.measure(model))

    def better(self, new: float, old: float) -> bool:
        """Whether a value is better than another; NaN is worse than anything."""
        if math.isnan(new) or math.isnan(old):
            return not math.isnan(new)
        return new > old if self.greater_is_better else new < old


def judge_of(selection: Selection) -> Judge:
    """Judge by a task, or by a function of which more is better."""
    given: Any = selection
    if hasattr(given, "evaluate"):
        return Judge(given.metric, given.greater_is_better, lambda m: given.evaluate(m).value)
    return Judge(getattr(given, "__name__", "selection"), True, given)


def judge_of_distance(distance: Distance, held_out: Sequence[Batch]) -> Judge:
    """Judge by the training loss on batches that are not trained on."""

    def measure(model: nn.Module) -> float:
        return sum(float(distance.weighted(*distance(b))) for b in held_out) / len(held_out)

    return Judge("distance", False, measure)


@dataclass
class Best:
    """The best weights so far.

    Attributes:
        judge: what is best.
        before: value of the weights that the model came with.
        value: of the best.
        step: where they were; 0 is before training.
        weights: copies of them; None are those that it came with.
        in_vain: looks since then.
    """

    judge: Judge
    before: float
    value: float = math.nan
    step: int = 0
    weights: list[Tensor] | None = field(default=None, repr=False)
    in_vain: int = 0

    def __post_init__(self) -> None:
        self.value = self.before

    def consider(self, step: int, value: float, trained: Sequence[Tensor]) -> None:
        """Keep weights if they are better; of trained ones that are as good, the later."""
        better = self.judge.better(value, self.value)
        self.in_vain = 0 if better else self.in_vain + 1
        if better or (self.weights is not None and value == self.value):
            self.value, self.step, self.weights = value, step, copies(trained)
