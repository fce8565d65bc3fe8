"""What a run says of every head that it removed, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from deadhead.display import Brief
from deadhead.files import json_number
from deadhead.types import Head

if TYPE_CHECKING:
    import pandas as pd

NAN = float("nan")


@dataclass(frozen=True, repr=False)
class RemovedHead(Brief):
    """One head that went; what belongs to a step is the same for all its heads. NaN: not known.

    Attributes:
        step, together: number of its step in the trajectory, from 1, and the heads of that step.
        source: the head that stands for it, where heads are grouped.
        score: by the run's criterion, at the moment it was chosen.
        scores, ranks: by each criterion, on the dense model; 1 = least important.
        change: of the metric since it was last evaluated; NaN where the step was not.
        change_over: heads that went since then: 1 if the change is this head's alone.
        before, after: divergence from the dense model before and after the step, repaired as the
            plan says; in nats, see `divergence_from`.
        unrepaired: divergence after the step without the repair.
    """

    head: Head
    step: int
    together: int
    source: Head | None = None
    score: float = NAN
    scores: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    change: float = NAN
    change_over: int = 0
    before: float = NAN
    after: float = NAN
    unrepaired: float = NAN

    @property
    def given_back(self) -> float:
        """What the repair gives back after this step: divergence without it, minus with it."""
        return self.unrepaired - self.after

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        values = {k: json_number(v) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {
            **values,
            "head": str(self.head),
            "source": None if self.source is None else str(self.source),
            "scores": {k: json_number(v) for k, v in self.scores.items()},
            "given_back": json_number(self.given_back),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RemovedHead:
        """Read what `to_json` returned."""
        values = {k: v for k, v in data.items() if k != "given_back"}
        for name in ("score", "change", "before", "after", "unrepaired"):
            values[name] = number_of(values[name])
        values["head"] = Head.parse(values["head"])
        values["source"] = None if values["source"] is None else Head.parse(values["source"])
        values["scores"] = {k: number_of(v) for k, v in values["scores"].items()}
        return cls(**values)


@dataclass(frozen=True, repr=False)
class Explanation(Brief):
    """What `explain` found: the removed heads in order, and what their numbers are of.

    Attributes:
        criteria: names of the criteria, each with the loss that it differentiates, or None.
        n_heads: heads of the dense model, which ranks run over.
        chosen_by: the run's criterion; empty if the choice looked at no scores.
        samples, measured: samples that heads were scored on, and divergences measured on (0: none).
        notes: what is missing or different, and why.
    """

    rows: tuple[RemovedHead, ...]
    metric: str
    criteria: Mapping[str, str | None]
    n_heads: int
    chosen_by: str = ""
    samples: int = 0
    measured: int = 0
    repair: str = "none"
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        values = {k: v for k, v in vars(self).items() if k != "rows"}
        values |= {"criteria": dict(self.criteria), "notes": list(self.notes)}
        return {**values, "rows": [row.to_json() for row in self.rows]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Explanation:
        """Read what `to_json` returned."""
        rows = tuple(RemovedHead.from_json(row) for row in data["rows"])
        return cls(**{**data, "rows": rows, "notes": tuple(data["notes"])})

    def to_frame(self) -> pd.DataFrame:
        """Return a row per head; columns as of `RemovedHead`, and two per criterion."""
        import pandas as pd

        table = []
        for row in self.rows:
            values = {**vars(row), "head": str(row.head), "given_back": row.given_back}
            values["source"] = "" if row.source is None else str(row.source)
            del values["scores"], values["ranks"]
            for name in self.criteria:
                values |= {name: row.scores[name], f"{name}_rank": row.ranks.get(name)}
            table.append(values)
        frame = pd.DataFrame(table)
        ranks = [f"{name}_rank" for name in self.criteria if len(frame)]
        return frame.astype(dict.fromkeys(ranks, "Int64"))


def number_of(value: float | str | None) -> float:
    """Read back what `json_number` wrote."""
    return NAN if value is None else float(value)
