"""Groups of similar units, formed so that an exact number of heads can be removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from deadhead.display import Brief
from deadhead.errors import BudgetError, DataError, HeadError, ScoreError, check_name
from deadhead.options.settings import Clustering
from deadhead.similarity import clusters
from deadhead.similarity.clusters import REPRESENTATIVES, WARD_ON, cut_tree, linkage
from deadhead.similarity.distances import HeadDistances, Unit
from deadhead.types import Head, HeadScores


@dataclass(frozen=True, repr=False)
class Group(Brief):
    """Similar units: the representative, which is kept, and the others that it replaces.

    Attributes:
        representative: a whole unit.
        others: whole units, whose heads correspond in order.
        cell: number of the cell that the group was made in, if it is known. Not compared.
    """

    representative: Unit
    others: tuple[Unit, ...] = ()
    cell: int | None = field(default=None, compare=False)

    @property
    def members(self) -> tuple[Unit, ...]:
        """All units of the group, by block, then index."""
        return tuple(sorted((self.representative, *self.others)))


def copies_of(groups: Sequence[Group]) -> dict[Head, Head]:
    """Map each head to be removed to its representative, for `PruningPlan.copies`."""
    return {
        head: source
        for g in groups
        for unit in g.others
        for head, source in zip(unit, g.representative, strict=True)
    }


def labels_of(groups: Sequence[Group]) -> dict[Head, int]:
    """Map each head to the number of its group."""
    return {head: number for number, g in enumerate(groups) for unit in g.members for head in unit}


def unit_importance(units: Sequence[Unit], importance: HeadScores) -> list[float]:
    """Return the importance of units: the mean over their heads."""
    counts = importance.counts
    for head in (head for unit in units for head in unit):
        if head.block >= len(counts) or head.index >= counts[head.block]:
            raise HeadError(
                f"there is no importance of head {head}: the scores are for blocks of"
                f" {list(counts)} heads; give scores of this model"
            )
    with np.errstate(invalid="ignore"):  # +inf and -inf have no mean: NaN
        means = [float(np.mean([importance[head] for head in unit])) for unit in units]
    for unit, mean in zip(units, means, strict=True):
        if np.isnan(mean):
            raise ScoreError(
                f"the importance of {named(unit)} is nan; give a score for every head of the model"
            )
    return means


def named(unit: Unit) -> str:
    """Name a unit by its heads, as in `0.2+0.3`."""
    return "+".join(map(str, unit))


def units_to_drop(cells: Sequence[Sequence[Unit]], n_drop: int) -> int:
    """Turn a number of heads into one of units, of which each cell keeps at least one."""
    sizes = {len(unit) for units in cells for unit in units}
    if len(sizes) != 1:
        raise DataError(f"units of {sorted(sizes)} heads; all units have to be of one size")
    size = sizes.pop()
    most = sum(len(units) - 1 for units in cells) * size
    if not 0 <= n_drop <= most:
        raise BudgetError(
            f"{n_drop} heads cannot be removed: each of {len(cells)} cells keeps a representative"
            f" of {size} head{'s' if size > 1 else ''}; ask for 0 to {most}"
        )
    if n_drop % size:
        below = n_drop - n_drop % size
        raise BudgetError(
            f"{n_drop} heads cannot be removed: units of {size} heads are removed whole; ask for"
            f" {below} or {below + size}"
        )
    return n_drop // size


Partition = list[list[int]]  # of one cell: groups of row numbers


@dataclass(frozen=True, eq=False)
class Request:
    """What a grouping works with.

    Attributes:
        cells: distances and units of each cell that has heads.
        n_units: how many units are removed in all; never more than `rooms` allow.
        metric: of the distances.
        ward_on: see `linkage`.
        importance: scores of the heads, for `importance_budget`.
        rng: for `random`.
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

    def partitions(self, budgets: Sequence[int]) -> list[Partition]:
        """Cut each cell's tree so that the cell loses its budget."""
        pairs = zip(self.trees, budgets, strict=True)
        return [cut_tree(tree, len(tree) + 1 - budget) for tree, budget in pairs]


def balanced(request: Request) -> list[Partition]:
    """Remove as many units in every block; the rest of the division where merging is cheapest.

    Cheapest is the smallest Ward height, ties to the lower block. The published rule removes
    int(H p) in each block, which is too few wherever H p is not whole.
    """
    _need_cells_of_one_block(request, "balanced")

    def cheapest(cells: list[int], n: int, budgets: list[int]) -> list[int]:
        return sorted(cells, key=lambda c: request.trees[c][budgets[c], 2])[:n]

    return request.partitions(_even(request, cheapest))


def nearest_pairs(request: Request) -> list[Partition]:
    """Budget blocks by their close pairs: the closest pair of the model loses a unit, and so on.

    A pair counts while both its units are left; the later one is removed. Ties go to the lower
    block. This only makes the budgets, Ward makes the groups. The published rule counted both units
    of a pair.
    """
    _need_cells_of_one_block(request, "nearest_pairs")
    pairs = sorted(
        (distance, cell, first, second)
        for cell, (matrix, _) in enumerate(request.cells)
        for first, row in enumerate(matrix.tolist())
        for second, distance in enumerate(row[first + 1 :], start=first + 1)
    )
    removed: set[tuple[int, int]] = set()
    for _, cell, first, second in pairs:
        if len(removed) == request.n_units:
            break
        if (cell, first) not in removed and (cell, second) not in removed:
            removed.add((cell, second))
    lost = [cell for cell, _ in removed]
    return request.partitions([lost.count(cell) for cell in range(len(request.cells))])


def importance_budget(request: Request) -> list[Partition]:
    """Budget blocks by how many of their units are among the least important of the model.

    A block keeps at least one unit; the next least important units of other blocks count instead.
    Ties go to the lower block, then the lower index.
    """
    _need_cells_of_one_block(request, "importance_budget")
    if request.importance is None:
        raise DataError(
            "grouping 'importance_budget' needs scores of all heads; give importance="
            " (any criterion, or a table)"
        )
    scored = [unit_importance(units, request.importance) for _, units in request.cells]
    ranking = sorted((s, cell, row) for cell, of in enumerate(scored) for row, s in enumerate(of))
    budgets = [0] * len(request.cells)
    for _, cell, _ in ranking:
        if sum(budgets) < request.n_units and budgets[cell] < request.rooms[cell]:
            budgets[cell] += 1
    return request.partitions(budgets)


def global_(request: Request) -> list[Partition]:
    """Cluster the units of all blocks at once: groups may span blocks."""
    if len(request.cells) > 1:
        raise DataError(
            f"grouping 'global' needs distances between the heads of all blocks, these are within"
            f" each of {len(request.cells)} blocks; compute them with scope='global'"
        )
    return request.partitions([request.n_units])


def random(request: Request) -> list[Partition]:
    """Group at random, as many in every block: the baseline for distances."""

    def drawn(cells: list[int], n: int, _: list[int]) -> list[int]:
        return request.rng.choice(cells, n, replace=False).tolist()

    budgets = _even(request, drawn)
    return [
        _random_partition(len(units), len(units) - budget, request.rng)
        for (_, units), budget in zip(request.cells, budgets, strict=True)
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
    """Group units so that exactly `n_drop` heads are not representatives and can be removed.

    Every unit is in one group; groups are ordered by cell, then by their first member. The same
    seed gives the same groups. Draws of representatives do not depend on those of the partition.

    Args:
        distances: between the units of each cell.
        grouping: a name in `GROUPINGS`.
        n_drop: heads to remove, in all; a multiple of the units' size.
        representative: `medoid` or `random`.
        importance: for `importance_budget`; a unit's score is the mean over its heads.
        seed: for `random`, grouping and representative.
        ward_on: `unit`, or `raw` as published.

    Raises:
        UnknownNameError: no such grouping, representative or `ward_on`.
        BudgetError: a cell would lose all its units, or `n_drop` is no multiple of their size.
        DataError: distances of a scope that the grouping cannot use, or units of unequal size.
        HeadError, ScoreError: importance of another model, or none for a head.
    """
    check_name("grouping", grouping, GROUPINGS)
    check_name("representative", representative, REPRESENTATIVES)
    check_name("ward_on", ward_on, WARD_ON)
    numbers = [number for number, units in enumerate(distances.units) if units]
    cells = tuple((distances.matrices[n], distances.units[n]) for n in numbers)
    n_units = units_to_drop([units for _, units in cells], n_drop)
    of_partition, of_choice = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
    request = Request(cells, n_units, distances.metric, ward_on, importance, of_partition)
    groups: list[Group] = []
    partitions = GROUPINGS[grouping](request)
    for number, (matrix, units), partition in zip(numbers, cells, partitions, strict=True):
        for members in partition:
            stays = clusters.representative(matrix, members, how=representative, rng=of_choice)
            others = tuple(units[m] for m in members if m != stays)
            groups.append(Group(units[stays], others, number))
    return tuple(groups)


def cluster(
    distances: HeadDistances,
    n_drop: int,
    clustering: Clustering,
    importance: HeadScores | None = None,
) -> tuple[Group, ...]:
    """Group the units so that exactly `n_drop` heads can be removed; see `group`."""
    return group(
        distances,
        clustering.grouping,
        n_drop,
        representative=clustering.representative,
        importance=importance,
        seed=clustering.seed,
        ward_on=clustering.ward_on,
    )


def _need_cells_of_one_block(request: Request, name: str) -> None:
    if any(len({unit[0].block for unit in units}) > 1 for _, units in request.cells):
        raise DataError(
            f"grouping {name!r} works inside blocks, these distances span blocks; compute them with"
            " scope='per_block', or choose grouping 'global'"
        )


def _even(
    request: Request, choose_some: Callable[[list[int], int, list[int]], list[int]]
) -> list[int]:
    """Budget one unit of every cell that has room, round by round; choose cells in the last."""
    budgets = [0] * len(request.cells)
    left = request.n_units
    while left:
        cells = [c for c, room in enumerate(request.rooms) if budgets[c] < room]
        if left < len(cells):
            cells = choose_some(cells, left, budgets)
        for cell in cells:
            budgets[cell] += 1
        left -= len(cells)
    return budgets


def _random_partition(n_units: int, n_groups: int, rng: np.random.Generator) -> Partition:
    """Start a group with each of some random units, and add every other to a random group."""
    order = rng.permutation(n_units).tolist()
    groups = [[unit] for unit in order[:n_groups]]
    for unit in order[n_groups:]:
        groups[int(rng.integers(n_groups))].append(unit)
    return sorted(sorted(members) for members in groups)
