"""What a distillation did, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deadhead.display import Brief


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


@dataclass(frozen=True, repr=False)
class DistillReport(Brief):
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
