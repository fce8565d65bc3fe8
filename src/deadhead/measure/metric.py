"""A metric knows which way is better, and says changes in that direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deadhead.display import NOTHING


@dataclass(frozen=True)
class Metric:
    """What a model is judged by.

    Attributes:
        name: e.g. `accuracy`, `perplexity`.
        greater_is_better: False for perplexity and losses.
    """

    name: str
    greater_is_better: bool = True

    @property
    def better(self) -> str:
        """The direction in words: `higher is better` or `lower is better`."""
        return f"{'higher' if self.greater_is_better else 'lower'} is better"

    def __str__(self) -> str:
        return f"{self.name} ({self.better})"

    def worse_by(self, before: float, after: float) -> float:
        """Return how much worse `after` is, in the metric's unit; negative if it is better."""
        return before - after if self.greater_is_better else after - before

    def change(self, before: float | None, after: float | None, *, than: str = "dense") -> str:
        """Say a relative change: `4.0% worse than dense`; a dash if it is not known.

        >>> Metric("perplexity", greater_is_better=False).change(20.0, 20.8)
        '4.0% worse than dense'
        """
        if before is None or after is None or not before > 0 or math.isnan(after):
            return NOTHING
        worse = self.worse_by(before, after) / before
        if round(abs(worse), 3) == 0:
            return f"the same as {than}"
        return f"{abs(worse):.1%} {'worse' if worse > 0 else 'better'} than {than}"

    def keeps(self, values: np.ndarray, dense: float, fraction: float) -> np.ndarray:
        """Return where values keep `fraction` of the dense model's quality.

        At least fraction * dense; where lower is better, at most dense / fraction.
        """
        return values >= fraction * dense if self.greater_is_better else values <= dense / fraction
