"""What a run says of itself: before it starts, while it works, and what of it is completed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deadhead.pruning.auto import AutoChoice
from deadhead.pruning.trajectory import Step
from deadhead.types import HeadScores


@dataclass
class Progress:
    """Callbacks of a run; all optional.

    Attributes:
        on_step: called after every step.
        on_choice: called once if no method was named, with what `auto` picked.
        on_scores: called once, with the scores of the model as it was given, if it is scored.
        on_work: called with the name of what was just done: `score` or `evaluate`.
        on_train: called after every step of `distill` with (steps done, steps planned).
    """

    on_step: Callable[[Step], None] = lambda step: None
    on_choice: Callable[[AutoChoice], None] = lambda choice: None
    on_scores: Callable[[HeadScores], None] = lambda scores: None
    on_work: Callable[[str], None] = lambda what: None
    on_train: Callable[[int, int], None] = lambda step, planned: None


@dataclass(frozen=True)
class Completed:
    """The completed part of an interrupted run: its first scores, its steps, what auto chose.

    The choice is not made again: on another machine, a near tie could go the other way.
    """

    scores: HeadScores | None = None
    steps: tuple[Step, ...] = ()
    choice: AutoChoice | None = None


@dataclass(frozen=True)
class Forecast:
    """What a run is going to do.

    Attributes:
        heads: how many heads it removes at most.
        n_heads: how many the model has.
        moves: in how many moves; under a budget or a stopping rule, at most.
        judgments: how often a model is judged, the dense one included; likewise at most.
        examples: how many examples it is judged on.
        scorings: passes over the calibration data, forward and backward.
        calibration: how many calibration examples there are.
        on: the set that judges.
    """

    heads: int
    n_heads: int
    moves: int
    judgments: int
    examples: int
    scorings: int
    calibration: int
    on: str = "test"

    def seconds(self, judgment: float) -> float:
        """Estimate the time of the run from the time of one judgment.

        A backward pass is taken to cost two forward passes.
        """
        pass_ = 3 * judgment * self.calibration / max(1, self.examples)
        return judgment * self.judgments + pass_ * self.scorings

    def describe(self, judgment: float | None = None) -> str:
        """Say in one line what will be done, and about how long it takes."""
        said = (
            f"remove up to {self.heads} of {self.n_heads} heads in {self.moves} steps, and judge"
            f" {self.judgments} models on {self.examples:,} {self.on} examples"
        )
        if judgment is None:
            return said
        seconds = self.seconds(judgment)
        return f"{said}: about {f'{seconds / 60:.0f} min' if seconds >= 90 else f'{seconds:.0f} s'}"
