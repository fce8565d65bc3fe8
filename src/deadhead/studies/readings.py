"""What a sweep measured: readings of judges, points, and the lines of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from deadhead.display.brief import Brief
from deadhead.files import json_number

RANDOM_HEADS, RANDOM_GROUPS = "random heads", "random groups"


@dataclass(frozen=True)
class Reading:
    """One number of one model: of a task's metric, with its interval (NaN if there is none)."""

    metric: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    greater_is_better: bool = True


@dataclass(frozen=True, repr=False)
class Point(Brief):
    """One model of a sweep.

    Attributes:
        method: how its heads were chosen: `cosine balanced`, `taylor`, `random heads`, `dense`.
        action: what became of them.
        asked: share of the heads that was asked for.
        dropped: heads that went.
        actual: share of the heads that went.
        draw: number of the draw, for what is random; else 0.
        readings: by judge; empty if the action is impossible.
        reason: why it is impossible (not exact, or against the gqa policy), else empty.
        seconds: what choosing and repairing took, with the whole of the pass over the data that a
            criterion shares with others; a second look that was shared is counted where it was
            first needed.
        size: parameters, KV bytes per token and timings, of models that are really smaller.
    """

    method: str
    action: str
    asked: float
    dropped: int
    actual: float
    draw: int = 0
    readings: Mapping[str, Reading] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0
    size: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, float, int]:
        """What tells it from the other points of a sweep."""
        return self.method, self.action, self.asked, self.draw

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back; NaN becomes null."""
        values = asdict(self)
        for reading in values["readings"].values():
            reading.update({k: json_number(reading[k]) for k in ("value", "low", "high")})
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        """Read what `to_json` returned."""
        readings = {judge: _reading(**values) for judge, values in data["readings"].items()}
        return cls(**{**data, "readings": readings})


def _reading(
    metric: str,
    value: float | None,
    low: float | None,
    high: float | None,
    greater_is_better: bool = True,
) -> Reading:
    found = [float("nan") if x is None else float(x) for x in (value, low, high)]
    return Reading(metric, *found, greater_is_better=greater_is_better)


@dataclass(frozen=True, repr=False)
class Line(Brief):
    """Points that are drawn at random become one line of a table: mean and 95% of draws."""

    method: str
    action: str
    asked: float
    dropped: int
    actual: float
    draws: int
    readings: Mapping[str, Reading]
    reason: str
    seconds: float
    size: Mapping[str, float]


def table_lines(points: Sequence[Point]) -> list[Line]:
    """Put the draws of a method together; other points are lines as they are."""
    groups: dict[tuple[str, str, float], list[Point]] = {}
    for point in points:
        groups.setdefault(point.key[:3], []).append(point)
    return [_line(group) for group in groups.values()]


def _line(group: Sequence[Point]) -> Line:
    first = group[0]
    readings = first.readings
    if len(group) > 1:
        readings = {
            judge: _over_draws([p.readings[judge] for p in group]) for judge in first.readings
        }
    return Line(
        first.method,
        first.action,
        first.asked,
        first.dropped,
        first.actual,
        len(group) if first.method.startswith((RANDOM_HEADS, RANDOM_GROUPS)) else 0,
        readings,
        first.reason,
        first.seconds,
        first.size,
    )


def _over_draws(readings: Sequence[Reading]) -> Reading:
    values = np.array([reading.value for reading in readings])
    low, high = np.quantile(values, [0.025, 0.975])
    return replace(readings[0], value=float(values.mean()), low=float(low), high=float(high))
