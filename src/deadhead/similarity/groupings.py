"""Which heads are alike enough for one to stand for the others: groups that drop an exact number.

A grouping decides how many units each cell (a block, or the whole model) loses and which of them
form a group; one member of every group stays, so a cell never loses all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from deadhead.errors import DataError, unknown_name
from deadhead.similarity import clusters
from deadhead.similarity.clusters import REPRESENTATIVES, WARD_ON, cut, linkage
from deadhead.similarity.distances import HeadDistances, Unit
from deadhead.similarity.groups import (
    Group,
    copies_of,
    importance_of,
    labels_of,
    named,
    units_to_drop,
)
from deadhead.types import HeadScores

__all__ = [
    "GROUPINGS",
    "Group",
    "Partition",
    "Request",
    "copies_of",
    "group",
    "importance_of",
    "labels_of",
    "named",
]

Partition = list[list[int]]  # of one cell: groups of row numbers


@dataclass(frozen=True, eq=False)
class Request:
    """What a grouping is asked for; cells that have lost all their heads are left out.

    Attributes:
        cells: distances and units of each cell.
        n_units: how many units are to go, in all; never more than there is room for.
    """

    cells: tuple[tuple[np.ndarray, tuple[Unit, ...]], ...]
    n_units: int
    metric: str
    ward_on: str
    importance: HeadScores | None
    rng: np.random.Generator

    @cached_property
    def rooms(self) -> list[int]:
        """How many units each cell can lose."""
        return [len(units) - 1 for _, units in self.cells]

    @cached_property
    def trees(self) -> list[np.ndarray]:
        """The Ward tree of each cell."""
        return [linkage(matrix, self.metric, ward_on=self.ward_on) for matrix, _ in self.cells]

    def cut(self, budgets: Sequence[int]) -> list[Partition]:
        """Cut each cell's tree so that the cell loses its budget."""
        pairs = zip(self.trees, budgets, strict=True)
        return [cut(tree, len(tree) + 1 - budget) for tree, budget in pairs]


def balanced(asked: Request) -> list[Partition]:
    """Drop as many units in every block: those that do not divide go where merging is cheapest.

    Cheapest is the smallest Ward height, ties to the lower block. The published rule drops int(H p)
    in each block, which is fewer than asked wherever H p is not whole.
    """
    _need_cells_of_one_block(asked, "balanced")

    def cheapest(cells: list[int], n: int, budgets: list[int]) -> list[int]:
        return sorted(cells, key=lambda c: asked.trees[c][budgets[c], 2])[:n]

    return asked.cut(_even(asked, cheapest))


def nearest_pairs(asked: Request) -> list[Partition]:
    """Budget blocks by their close pairs: the closest pair of the model loses one, then the next.

    A pair counts while both are still there; the later one goes. Ties go to the lower block. The
    walk only makes the budgets, Ward makes the groups. The published walk counted both of a pair.
    """
    _need_cells_of_one_block(asked, "nearest_pairs")
    pairs = sorted(
        (distance, cell, first, second)
        for cell, (matrix, _) in enumerate(asked.cells)
        for first, row in enumerate(matrix.tolist())
        for second, distance in enumerate(row[first + 1 :], start=first + 1)
    )
    gone: set[tuple[int, int]] = set()
    for _, cell, first, second in pairs:
        if len(gone) == asked.n_units:
            break
        if (cell, first) not in gone and (cell, second) not in gone:
            gone.add((cell, second))
    lost = [cell for cell, _ in gone]
    return asked.cut([lost.count(cell) for cell in range(len(asked.cells))])


def importance_budget(asked: Request) -> list[Partition]:
    """Budget blocks by how many of their units are among the least important of the model.

    A block keeps one unit in any case; what it does not lose, the next least important do. Ties go
    to the lower block, then the lower index. Raises DataError without `importance`.
    """
    _need_cells_of_one_block(asked, "importance_budget")
    if asked.importance is None:
        raise DataError(
            "grouping 'importance_budget' needs scores of all heads; give importance="
            " (any criterion, or a table)"
        )
    scored = [importance_of(units, asked.importance) for _, units in asked.cells]
    ranking = sorted((s, cell, row) for cell, of in enumerate(scored) for row, s in enumerate(of))
    budgets = [0] * len(asked.cells)
    for _, cell, _ in ranking:
        if sum(budgets) < asked.n_units and budgets[cell] < asked.rooms[cell]:
            budgets[cell] += 1
    return asked.cut(budgets)


def global_(asked: Request) -> list[Partition]:
    """Cluster the units of all blocks at once: groups may span blocks."""
    if len(asked.cells) > 1:
        raise DataError(
            f"grouping 'global' needs distances between the heads of all blocks, these are of"
            f" {len(asked.cells)} blocks apart; compute them with scope='global'"
        )
    return asked.cut([asked.n_units])


def random(asked: Request) -> list[Partition]:
    """Group at random, as many in every block: the baseline that distances have to beat."""

    def drawn(cells: list[int], n: int, _: list[int]) -> list[int]:
        return asked.rng.choice(cells, n, replace=False).tolist()

    budgets = _even(asked, drawn)
    return [
        _random_partition(len(units), len(units) - budget, asked.rng)
        for (_, units), budget in zip(asked.cells, budgets, strict=True)
    ]


GROUPINGS: dict[str, Callable[[Request], list[Partition]]] = {
    "balanced": balanced,
    "global": global_,
    "importance_budget": importance_budget,
    "nearest_pairs": nearest_pairs,
    "random": random,
}


def group(
    distances: HeadDistances,
    grouping: str,
    n_drop: int,
    *,
    representative: str = "medoid",
    importance: HeadScores | None = None,
    seed: int = 0,
    ward_on: str = "unit",
) -> tuple[Group, ...]:
    """Group units so that exactly `n_drop` heads are not representatives, hence can be dropped.

    Every unit is in one group; groups come by cell, then by their first member. The same seed gives
    the same groups: draws come from a generator of this call, never from a global one. Draws of
    representatives do not depend on those of the partition.

    Args:
        distances: between the units of each cell.
        grouping: a name in `GROUPINGS`.
        n_drop: heads to drop, in all; a multiple of the units' size.
        representative: `medoid` or `random`.
        importance: for `importance_budget`; a unit's score is the mean of its heads'.
        seed: for `random`, grouping and representative.
        ward_on: `unit`, or `raw` as published.

    Raises:
        UnknownNameError: no such grouping, representative or `ward_on`.
        BudgetError: a cell would lose all its units, or `n_drop` would halve a unit.
        DataError: distances of a scope that the grouping cannot use, or units of unequal size.
        HeadError, ScoreError: importance of another model, or none for a head.
    """
    for kind, given, known in (
        ("grouping", grouping, GROUPINGS),
        ("representative", representative, REPRESENTATIVES),
        ("ward_on", ward_on, WARD_ON),
    ):
        if given not in known:
            raise unknown_name(kind, given, known)
    numbers = [number for number, units in enumerate(distances.units) if units]
    cells = tuple((distances.matrices[n], distances.units[n]) for n in numbers)
    n_units = units_to_drop([units for _, units in cells], n_drop)
    of_partition, of_choice = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
    asked = Request(cells, n_units, distances.metric, ward_on, importance, of_partition)
    groups: list[Group] = []
    partitions = GROUPINGS[grouping](asked)
    for number, (matrix, units), partition in zip(numbers, cells, partitions, strict=True):
        for members in partition:
            stays = clusters.representative(matrix, members, how=representative, rng=of_choice)
            others = tuple(units[m] for m in members if m != stays)
            groups.append(Group(units[stays], others, number))
    return tuple(groups)


def _need_cells_of_one_block(asked: Request, name: str) -> None:
    if any(len({unit[0].block for unit in units}) > 1 for _, units in asked.cells):
        raise DataError(
            f"grouping {name!r} works inside blocks, these distances span blocks; compute them with"
            " scope='per_block', or choose grouping 'global'"
        )


def _even(
    asked: Request, choose_some: Callable[[list[int], int, list[int]], list[int]]
) -> list[int]:
    """Take one unit of every cell that has one to lose, round by round; choose in the last."""
    budgets = [0] * len(asked.cells)
    left = asked.n_units
    while left:
        cells = [c for c, room in enumerate(asked.rooms) if budgets[c] < room]
        if left < len(cells):
            cells = choose_some(cells, left, budgets)
        for cell in cells:
            budgets[cell] += 1
        left -= len(cells)
    return budgets


def _random_partition(n_units: int, n_groups: int, rng: np.random.Generator) -> Partition:
    """Let random units begin a group each, and the rest join any."""
    order = rng.permutation(n_units).tolist()
    groups = [[unit] for unit in order[:n_groups]]
    for unit in order[n_groups:]:
        groups[int(rng.integers(n_groups))].append(unit)
    return sorted(sorted(members) for members in groups)
