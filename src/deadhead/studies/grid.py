"""What a sweep goes through, and what it measures: grid, readings, points, table lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from deadhead.display import Brief
from deadhead.errors import BudgetError, unknown_name
from deadhead.files import json_number
from deadhead.options.values import Action, Gqa, Loss, Repair, Slope, Strategy, count_heads
from deadhead.pruning.recipe import AUTO, Recipe
from deadhead.repair.base import REPAIRS
from deadhead.similarity import Clustering
from deadhead.strategies import STRATEGIES
from deadhead.studies.explanation import number_of
from deadhead.types import COPYING

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
        asked, actual: shares of the heads, as asked for and as `dropped`.
        draw: number of the draw, for what is random; else 0.
        readings: by judge; empty if the action is impossible for this `reason`.
        seconds: what choosing and repairing took, with the whole of the pass over the data that a
            criterion shares with others; a shared second look counts where it was first needed.
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
        readings = {}
        for judge, one in data["readings"].items():
            numbers = {name: number_of(one[name]) for name in ("value", "low", "high")}
            readings[judge] = Reading(**{**one, **numbers})
        return cls(**{**data, "readings": readings})


@dataclass(frozen=True, repr=False)
class Line(Point):
    """A line of a table; `draws` at random become one: their mean, and 95% of them."""

    draws: int = 0


def table_lines(points: Sequence[Point]) -> list[Line]:
    """Put the draws of a method together; other points are lines as they are."""
    groups: dict[tuple[str, str, float], list[Point]] = {}
    for point in points:
        groups.setdefault(point.key[:3], []).append(point)
    return [_line(group) for group in groups.values()]


def _line(group: Sequence[Point]) -> Line:
    first, readings = group[0], group[0].readings
    if len(group) > 1:
        readings = {judge: _over_draws([p.readings[judge] for p in group]) for judge in readings}
    draws = len(group) if first.method.startswith((RANDOM_HEADS, RANDOM_GROUPS)) else 0
    return Line(**{**vars(first), "readings": readings, "draws": draws})


def _over_draws(readings: Sequence[Reading]) -> Reading:
    values = np.array([reading.value for reading in readings])
    low, high = np.quantile(values, [0.025, 0.975])
    return replace(readings[0], value=float(values.mean()), low=float(low), high=float(high))


GROUPS: Any = next(name for name, strategy in STRATEGIES.items() if strategy.makes_groups)


@dataclass(frozen=True, repr=False)
class SweepGrid(Brief):
    """What to go through.

    Attributes:
        fractions: shares of all heads, each in (0, 1].
        clusterings: ways to group heads; each under every action. `random` ones are drawn, and
            looked at under the first action that copies, or under mask if none does.
        criteria: criteria to drop the lowest of, one-shot; under those of mask and remove that
            are asked for (mask if neither is).
        methods: more ways to choose by a criterion, as (strategy, criterion), under the same;
            ("auto", "auto") decides for every share, with the default repair.
        repairs: of what criteria, methods and random heads leave; each on its own.
        distill_of: the methods, by the names of `named`, that the repair `distill` trains; empty:
            all of them. The others, and random heads always, get what it begins with.
        actions: `remove`, `mask`, `duplicate`, `fold`.
        draws: random draws, of heads and of `random` groups. 0: none.
        loss, slope, gqa, seed, strict: as in `Recipe`.

    Raises:
        BudgetError: a fraction outside (0, 1].
        UnknownNameError: a name that is not known.
    """

    fractions: tuple[float, ...]
    clusterings: tuple[Clustering, ...] = ()
    criteria: tuple[str, ...] = ()
    methods: tuple[tuple[Strategy, str], ...] = ()
    repairs: tuple[Repair, ...] = ("none",)
    distill_of: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ("duplicate", "mask", "fold")
    draws: int = 0
    loss: Loss | None = None
    slope: Slope = "target"
    gqa: Gqa = "whole_groups"
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.draws < 0:
            raise BudgetError(f"{self.draws} random draws; give 0 (none) or more, 20 for a band")
        if not self.fractions or not self.actions:
            raise BudgetError("a sweep needs a share of the heads and an action; name one or more")
        if self.measured != self.clusterings and not self.draws:
            raise BudgetError("random groups are drawn; say how often (--random 20)")
        for fraction in self.fractions:
            count_heads(fraction, 1)  # checks that it is a share
            for action in self.actions:
                for clustering in self.clusterings or (Clustering(),):
                    self.of_clusters(clustering, fraction, action)
            for strategy, criterion in self.chosen:
                if (strategy == AUTO) != (criterion == AUTO):
                    raise BudgetError(
                        f"auto decides on strategy and criterion together, and {strategy!r} by"
                        f" {criterion!r} names one of them; name a criterion, or compare --criteria"
                        " auto"
                    )
                for repair in self.repairs:
                    self.of_criterion(criterion, fraction, strategy=strategy, repair=repair)
        for name in self.distill_of:
            if name not in self.named:
                raise unknown_name("method to distill", name, self.named)

    @property
    def chosen(self) -> tuple[tuple[Strategy, str], ...]:
        """All ways to choose by a criterion, as (strategy, criterion)."""
        return (*(("one_shot", criterion) for criterion in self.criteria), *self.methods)

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the methods in `chosen`: `taylor`, `greedy reconstruction`."""
        return tuple(method_name(*chosen) for chosen in self.chosen)

    @property
    def trains(self) -> bool:
        """Whether a model is trained."""
        return bool(self.chosen) and any(REPAIRS[r].begins_with for r in self.repairs)

    def repairs_of(self, method: str) -> tuple[Repair, ...]:
        """Return the repairs of a method, or of random heads."""
        if method in (self.distill_of or self.named):
            return self.repairs
        named: Any = [REPAIRS[repair].begins_with or repair for repair in self.repairs]
        return tuple(dict.fromkeys(named))

    @property
    def measured(self) -> tuple[Clustering, ...]:
        """Clusterings that look at distances."""
        return tuple(c for c in self.clusterings if c.grouping != "random")

    @property
    def of_random_groups(self) -> Action | None:
        """Action that random groups are looked at under; None if there are none."""
        if self.measured == self.clusterings:
            return None
        copying: list[Action] = [action for action in self.actions if action in COPYING]
        return copying[0] if copying else "mask"

    @property
    def plain(self) -> tuple[Action, ...]:
        """Actions for what has no copies: those of mask and remove that are asked for."""
        return tuple(a for a in self.actions if a not in COPYING) or ("mask",)

    def of_clusters(self, clustering: Clustering, fraction: float, action: Action) -> Recipe:
        """Return the recipe of one plan by clusters."""
        return Recipe(
            strategy=GROUPS,
            heads=fraction,
            clustering=clustering,
            action=action,
            criterion=self.criteria[0] if self.criteria else Recipe.criterion,
            loss=self.loss,
            slope=self.slope,
            gqa=self.gqa,
            seed=self.seed,
        )

    def of_criterion(
        self,
        criterion: str,
        fraction: float,
        *,
        strategy: Strategy = "one_shot",
        repair: Repair = "none",
    ) -> Recipe:
        """Return the recipe of one plan by a criterion."""
        repair = AUTO if strategy == AUTO and repair == "none" else repair
        return Recipe(
            criterion=criterion,
            strategy=strategy,
            repair=repair,
            heads=fraction,
            loss=self.loss,
            gqa=self.gqa,
            seed=self.seed,
        )


def method_name(strategy: str, criterion: str) -> str:
    """Return what a way to choose is called in a table."""
    return criterion if strategy in ("one_shot", AUTO) else f"{strategy} {criterion}"


def count_points(grid: SweepGrid) -> int:
    """Count the points of a sweep, the dense model included."""
    by_criteria = sum(len(grid.repairs_of(name)) for name in grid.named) * len(grid.plain)
    each = len(grid.measured) * len(grid.actions) + by_criteria
    of_heads = len(grid.repairs_of(RANDOM_HEADS))
    drawn = grid.draws * (of_heads + (grid.of_random_groups is not None))
    return 1 + len(grid.fractions) * (each + drawn)
