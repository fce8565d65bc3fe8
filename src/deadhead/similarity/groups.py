"""Groups of similar units, and how many units can be removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deadhead.display import Brief
from deadhead.errors import BudgetError, DataError, HeadError, ScoreError
from deadhead.similarity.distances import Unit
from deadhead.types import Head, HeadScores


@dataclass(frozen=True, repr=False)
class Group(Brief):
    """Similar units: the representative, which is kept, and the others that it replaces.

    Attributes:
        representative: a whole unit.
        others: whole units, whose heads correspond in order; none if no other unit is similar.
        cell: number of the cell that the group was made in: only units of one cell can form a
            group. None: not known. Not compared.
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
    """Return the importance of units: the mean over their heads.

    Raises:
        HeadError: the scores are of a model without one of the heads.
        ScoreError: a head is not scored (NaN).
    """
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
    """Turn a number of heads into one of units, of which each cell keeps at least one.

    Raises:
        BudgetError: a cell would lose all its units, or `n_drop` would halve a unit.
        DataError: units of unequal size.
    """
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
