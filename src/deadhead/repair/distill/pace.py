"""How far a distillation is, by its steps or by the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from deadhead.measure import Timer

LOOKING = 1 / 3  # of the time at most


@dataclass
class Pace:
    """How far a run is: by steps or, if that ends sooner, by the clock.

    Attributes:
        total: steps asked for.
        seconds: when to end; None: never.
        looks: evaluations to come.
        step: steps done.
        stepping: seconds that they took.
        looking: seconds that an evaluation takes.
    """

    total: int
    seconds: float | None
    looks: int
    step: int = 0
    stepping: float = 0.0
    looking: float = 0.0
    timer: Timer = field(default_factory=Timer)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.timer.seconds

    @property
    def left(self) -> float:
        """Seconds left for steps."""
        if self.seconds is None:
            return math.inf
        return self.seconds - self.elapsed - self.looks * self.looking

    @property
    def planned(self) -> int:
        """Steps that fit: all, or as many as there is time for, at the rate so far."""
        if self.left == math.inf or not self.step:
            return self.total if self.left > 0 else 0
        more = self.left / (self.stepping / self.step)
        return min(self.total, self.step + max(0, math.floor(more)))

    @property
    def share(self) -> float:
        """Fraction done, in [0, 1]."""
        return self.step / max(1, self.planned)

    def time_looks(self, seconds: float, after: int) -> None:
        """Say what an evaluation takes, before the first step; fewer are made if that is much.

        `after` more are to be made after the last step, whatever they take.
        """
        self.looking = seconds
        if self.seconds is not None:
            most = math.floor(self.seconds * LOOKING / max(seconds, 1e-9)) - after
            self.looks = max(1, min(self.looks, most))
        self.looks += after
