"""When to stop: a budget of heads, a metric that has dropped too far, and patience with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deadhead.errors import BudgetError
from deadhead.pruning.trajectory import Step


@dataclass(frozen=True)
class StopRules:
    """Stopping rules on a stream of steps.

    Attributes:
        heads: stop once this many heads are dropped.
        max_drop: stop when the metric is worse than the dense one by more than this, in the
            metric's own unit (`.01` = one point of accuracy).
        patience: how many evaluated steps in a row may be worse than that before it stops; the
            curve is not monotone, so a later step may be good again.
    """

    heads: int
    max_drop: float | None = None
    patience: int = 1

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise BudgetError(f"patience is {self.patience}; give 1 or more steps")
        if self.max_drop is not None and not self.max_drop >= 0:  # NaN is refused too
            raise BudgetError(f"max_drop is {self.max_drop}; give 0 or more, e.g. .01")

    def acceptable(self, step: Step, dense: float, *, greater_is_better: bool) -> bool:
        """Whether a step's metric is within `max_drop` of the dense one."""
        if self.max_drop is None:
            return True
        if np.isnan(step.metric):
            return False
        worse = dense - step.metric if greater_is_better else step.metric - dense
        return worse <= self.max_drop + 1e-12

    def met(self, steps: Sequence[Step], dense: float, *, greater_is_better: bool) -> bool:
        """Whether to stop after these steps (dense model not included)."""
        if steps and len(steps[-1].mask.dropped) >= self.heads:
            return True
        if self.max_drop is None:
            return False
        evaluated = [s for s in steps if not np.isnan(s.metric)][-self.patience :]
        return len(evaluated) == self.patience and not any(
            self.acceptable(s, dense, greater_is_better=greater_is_better) for s in evaluated
        )
