"""What a distillation does and what it did, as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from deadhead.errors import BudgetError

RANK = 8  # of `lora=True`


@dataclass(frozen=True)
class Distillation:
    """How a cut model is trained against the dense one.

    Attributes:
        epochs: how often every sample is seen.
        max_steps: optimizer steps, instead of `epochs`.
        seconds: wall-clock limit, evaluations included; the schedule shortens to what fits. None is
            no limit, and only then is a run repeatable to the last bit on a slower machine.
        learning_rate: the peak; it rises over the first `warmup` of the steps, then falls to zero.
            The default is for small models and full training; take 1e-3 for LoRA, 2e-5 for billions
            of parameters.
        warmup: fraction of the steps.
        batch_size: samples per step at most; batches are split, never merged.
        logits_weight: weight of the divergence from the dense logits.
        outputs_weight: weight of the relative error of the attention blocks' outputs.
        temperature: of the softmax that logits are compared by.
        lora: rank of the adapters on the projections of the blocks that lost heads; True is 8,
            False or 0 trains every weight but the token embeddings.
        dropout: whether the cut model trains with the dropout of its config.
        evaluations: how often the selection set is looked at, evenly over the steps.
        patience: stop after so many evaluations without a better one; None: never. The metric often
            dips while the learning rate is high.
        seed: of the order of the batches, the adapters and dropout.

    Raises:
        BudgetError: a value with which nothing could be trained.
    """

    epochs: int = 2
    max_steps: int | None = None
    seconds: float | None = None
    learning_rate: float = 2e-4
    warmup: float = 0.05
    batch_size: int = 32
    logits_weight: float = 1.0
    outputs_weight: float = 1.0
    temperature: float = 1.0
    lora: int | bool = False
    dropout: bool = False
    evaluations: int = 8
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluations", "max_steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BudgetError(f"{name} {value!r} of distill trains nothing; give 1 or more")
        for name in ("learning_rate", "temperature", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BudgetError(f"{name} {value!r} of distill is no positive number; give one")
        if not 0 <= self.warmup < 1:
            raise BudgetError(f"warmup {self.warmup!r} of distill is not in [0, 1); 0.05 is usual")
        if min(self.logits_weight, self.outputs_weight) < 0 or not self.weights > 0:
            raise BudgetError(
                f"logits_weight {self.logits_weight!r} and outputs_weight {self.outputs_weight!r}"
                " leave distill nothing to learn; give numbers from 0, not both 0"
            )
        if self.lora < 0:
            raise BudgetError(f"lora {self.lora!r} of distill is no rank; give 8, or 0 for none")

    @property
    def weights(self) -> float:
        """Sum of both weights."""
        return self.logits_weight + self.outputs_weight

    @property
    def rank(self) -> int:
        """Rank of the adapters; 0 is none."""
        return RANK if self.lora is True else int(self.lora)


@dataclass(frozen=True)
class DistillPoint:
    """One look at the model.

    Attributes:
        step: optimizer steps done.
        value: the selection metric.
        divergence: mean over the steps since the last look of the divergence from the dense logits,
            in nats (half the squared error of a regression, the relative error without a head).
        error: likewise, of the attention blocks' outputs, relative to their variance.
    """

    step: int
    value: float
    divergence: float
    error: float


@dataclass(frozen=True)
class DistillReport:
    """What a distillation did.

    Attributes:
        metric: what `before` and `after` are; `divergence` if there was no selection set.
        greater_is_better: of the metric.
        before: value of the model as it was given.
        after: value of the model as it is left; not worse than `before`.
        best_step: step whose weights were kept; 0 are those that it came with.
        steps: optimizer steps done.
        planned: optimizer steps asked for.
        stopped: `done`, `seconds` or `patience`.
        trained: number of weights that were trained.
        seconds: wall clock.
        points: every look, in order.
    """

    metric: str
    greater_is_better: bool
    before: float
    after: float
    best_step: int
    steps: int
    planned: int
    stopped: str
    trained: int
    seconds: float
    points: tuple[DistillPoint, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**self.__dict__, "points": [dict(p.__dict__) for p in self.points]}
