"""What a report is made of: one run, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deadhead.display import Brief
from deadhead.errors import FileFormatError
from deadhead.measure.latency import SpeedRow
from deadhead.pruning.trajectory import Trajectory
from deadhead.studies.baseline import RandomBaseline
from deadhead.studies.explanation import Explanation
from deadhead.types import HeadScores, PruningPlan


@dataclass(frozen=True, repr=False)
class RunSummary(Brief):
    """Everything that a report or a model card says about one run.

    Every field after `plan` may be empty: a report then says less, and says that it does.

    Attributes:
        scores: of the dense model; None if no choice looked at any.
        model: `name`, `hub_id`, `model_type`, `parameters_before`, `parameters_after`,
            `kv_bytes_per_token_before`, `kv_bytes_per_token_after` (None for encoders),
            `auto_class` (`AutoModelForCausalLM`; for the card) and `needs_deadhead` to load it.
        evaluation: `dense` and `pruned` (each `{metric: value}`), `interval` (`{"dense": [low,
            high], "pruned": [low, high]}` of the trajectory's metric, 95%) and `chance`.
        run: `command`, `versions`, `data` (`{role: {"fingerprint": ..., "size": ...}}`), `notes`,
            `seed`, `date`, `seconds`, and `evaluated_on`: the set of the trajectory.
    """

    title: str
    trajectory: Trajectory
    scores: HeadScores | None
    plan: PruningPlan
    model: dict[str, Any] = field(default_factory=dict)
    speed: list[SpeedRow] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    random: RandomBaseline | None = None
    run: dict[str, Any] = field(default_factory=dict)
    explanation: Explanation | None = None

    @property
    def chosen_by(self) -> str:
        """What chose the heads: the criterion, or without scores the strategy."""
        if self.scores is not None:
            return self.scores.criterion
        return str(self.plan.provenance.get("strategy", "plan"))

    @property
    def before(self) -> float:
        """The metric of the dense model; NaN if it was not evaluated."""
        return self._evaluated("dense", self.trajectory.dense)

    @property
    def after(self) -> float:
        """The metric of the model as cut; NaN if it was not evaluated.

        Without an evaluation of its own this is the trajectory's value for the plan's mask.
        """
        return self._evaluated("pruned", self.on_curve)

    @property
    def evaluated_on(self) -> str:
        """The set that the trajectory was measured on; everything else is on test."""
        return str(self.run.get("evaluated_on") or "test")

    @property
    def on_curve(self) -> float:
        """The trajectory's metric for the plan's mask; NaN if no evaluated step has that mask."""
        return next((s.metric for s in self.trajectory if s.mask == self.plan.mask), float("nan"))

    def interval(self, which: str) -> tuple[float, float] | None:
        """Return the 95% interval of `dense` or `pruned`, if there is one."""
        ends = (self.evaluation.get("interval") or {}).get(which)
        return (_known(ends[0]), _known(ends[1])) if ends else None

    def _evaluated(self, which: str, otherwise: float) -> float:
        value = (self.evaluation.get(which) or {}).get(self.trajectory.metric)
        return otherwise if value is None else float(value)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back; NaN becomes null."""
        return {
            "title": self.title,
            "trajectory": self.trajectory.to_json(),
            "scores": None if self.scores is None else self.scores.to_json(),
            "plan": self.plan.to_json(),
            "model": _plain(self.model),
            "speed": [_plain(row.to_json()) for row in self.speed],
            "evaluation": _plain(self.evaluation),
            "random": _plain(self.random.to_json()) if self.random else None,
            "run": _plain(self.run),
            "explanation": None if self.explanation is None else self.explanation.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSummary:
        """Read what `to_json` returned."""
        try:
            explanation = data.get("explanation")  # older runs have none
            return cls(
                title=data["title"],
                trajectory=Trajectory.from_json(data["trajectory"]),
                scores=None if data["scores"] is None else HeadScores.from_json(data["scores"]),
                plan=PruningPlan.from_json(data["plan"]),
                model=dict(data["model"]),
                speed=[SpeedRow(**{k: _known(v) for k, v in row.items()}) for row in data["speed"]],
                evaluation=dict(data["evaluation"]),
                random=RandomBaseline.from_json(data["random"]) if data["random"] else None,
                run=dict(data["run"]),
                explanation=Explanation.from_json(explanation) if explanation else None,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(
                f"this is not a run summary ({error!r}); 'deadhead prune' writes one"
            ) from error


def _known(value: Any) -> Any:
    """Return a value of a JSON file, where null was NaN."""
    return float("nan") if value is None else value


def _plain(value: Any) -> Any:
    """Turn numpy scalars, tuples and paths into JSON values; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
