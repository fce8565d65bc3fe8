"""Agreement of groupings from different prompts or tasks; important heads that a plan removes.

Both are compared with chance: the adjusted Rand index is 0 for random groups of the same sizes, and
the share of important heads comes with that of as many heads drawn at random.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, product
from typing import TYPE_CHECKING

import numpy as np

from deadhead.errors import BudgetError, DataError, HeadError
from deadhead.options.values import count_heads
from deadhead.similarity.distances import Unit
from deadhead.similarity.groupings import Group, labels_of, named, unit_importance
from deadhead.types import Head, HeadScores

if TYPE_CHECKING:
    import pandas as pd

Groups = Sequence[Group]
INTERVAL = (2.5, 97.5)


def adjusted_rand(a: Groups, b: Groups) -> float:
    """Compare two groupings of the same units: 1 = the same, 0 = agreement by chance.

    The index is the mean over the cells in which both were made (a block, a key/value group, the
    whole model; a block if the groups do not say), weighted by their numbers of heads: that units
    of two cells are never in one group is not agreement. Cells in which the two cannot differ (all
    units alone in both, or all together) do not count; if none counts it is 1 for equal groupings,
    else 0.

    Unit: at most 1, may be negative; higher = more agreement.
    Source: Hubert and Arabie 1985, as in `sklearn.metrics.adjusted_rand_score`, per cell.

    Raises:
        HeadError: the groupings are of different units.
    """
    from sklearn.metrics import adjusted_rand_score  # takes a second to import

    first, second = _labels(a), _labels(b)
    if first.keys() != second.keys():
        odd = min(first.keys() ^ second.keys())
        raise HeadError(
            f"the groupings are of different units: {named(odd)} is in one only; compare groupings"
            " of the same heads of the same model"
        )
    indices, weights = [], []
    for cell in _common_cells(a, b):
        one, other = [first[unit] for unit in cell], [second[unit] for unit in cell]
        if len(set(one)) == len(set(other)) in (1, len(cell)):  # they cannot differ
            continue
        indices.append(adjusted_rand_score(one, other))
        weights.append(sum(map(len, cell)))
    if not indices:
        return float({g.members for g in a} == {g.members for g in b})
    return float(np.average(indices, weights=weights))


def agreement(
    groupings: Mapping[str, Sequence[Groups]], *, seed: int = 0, max_pairs: int = 400
) -> pd.DataFrame:
    """Compare groupings within and between names (tasks, prompt sets) by adjusted Rand index.

    Each name has several groupings, from different draws of its prompts. A row compares every
    grouping of `first` with every one of `second`. A row whose `first` is `second` compares the
    draws of that name: it says how much the draw alone matters, as a reference for the other rows.
    Pairs share groupings, so the interval is the spread of the values, not that of their mean.

    Returns:
        A frame with a row for each pair of names, in the order given, and columns `first`,
        `second`, `mean`, `low`, `high` (2.5th and 97.5th percentile; NaN for fewer than 2 pairs)
        and `pairs`. A name with one grouping has no row of its own.

    Cost: one `adjusted_rand` per pair, of `max_pairs` pairs drawn with `seed` where there are more.

    Raises:
        DataError: nothing to compare, or a name without a grouping.
        HeadError: the groupings are of different units.
    """
    import pandas as pd

    for name, draws in groupings.items():
        if not len(draws):
            raise DataError(f"{name!r} has no grouping; give at least one for each name")
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    rows = []
    for first, second in combinations_with_replacement(groupings, 2):
        draws = groupings[first]
        pairs = list(
            combinations(draws, 2) if first == second else product(draws, groupings[second])
        )
        if len(pairs) > max_pairs:
            pairs = [pairs[i] for i in sorted(rng.choice(len(pairs), max_pairs, replace=False))]
        if pairs:
            values = [adjusted_rand(a, b) for a, b in pairs]
            low, high = np.percentile(values, INTERVAL) if len(values) > 1 else (np.nan, np.nan)
            rows.append((first, second, float(np.mean(values)), low, high, len(values)))
    if not rows:
        raise DataError("there is one grouping at most; give two to compare")
    return pd.DataFrame(rows, columns=["first", "second", "mean", "low", "high", "pairs"])


@dataclass(frozen=True)
class RemovedShare:
    """Share of the most important heads that a plan removes, beside chance; lower is better.

    Attributes:
        share: fraction of the important heads that is removed, in [0, 1].
        expected, low, high: mean and central 95% interval of it for as many heads drawn at random.
        n_important, n_dropped, n_heads: how many heads are important, removed, and in all.
    """

    share: float
    expected: float
    low: float
    high: float
    n_important: int
    n_dropped: int
    n_heads: int


def removed_share(
    groups: Sequence[Group], importance: HeadScores, fraction: int | float
) -> RemovedShare:
    """Return the share of the most important heads that is removed if only representatives stay.

    Only heads in `groups` count. `fraction` of them, or so many, are important; ties in importance
    go to the lower block, then the lower index. Chance is hypergeometric: `n_dropped` of `n_heads`
    drawn one by one. If whole key/value groups are removed, its interval is too narrow.

    Raises:
        BudgetError: `fraction` is out of range, or of so few heads that none is important.
        HeadError, ScoreError: importance of another model, or none for a head.
    """
    from scipy.stats import hypergeom  # takes a second to import

    heads = sorted(labels_of(groups))
    scores = unit_importance([(head,) for head in heads], importance)
    n_important = count_heads(fraction, len(heads))
    if not n_important:
        raise BudgetError(
            f"{fraction!r} of {len(heads)} heads is no head; call at least one important"
        )
    best = sorted(range(len(heads)), key=lambda row: -scores[row])[:n_important]
    important = {heads[row] for row in best}
    dropped: set[Head] = {head for g in groups for unit in g.others for head in unit}
    low, high = hypergeom(len(heads), n_important, len(dropped)).interval(0.95)
    return RemovedShare(
        share=len(important & dropped) / n_important,
        expected=len(dropped) / len(heads),
        low=float(low) / n_important,
        high=float(high) / n_important,
        n_important=n_important,
        n_dropped=len(dropped),
        n_heads=len(heads),
    )


def _labels(groups: Groups) -> dict[Unit, int]:
    return {unit: number for number, g in enumerate(groups) for unit in g.members}


def _common_cells(a: Groups, b: Groups) -> list[list[Unit]]:
    """Divide units by the cells of both groupings: together are those that both could join."""
    first, second = _cells(a), _cells(b)
    cells: dict[Hashable, list[Unit]] = {}
    for unit in sorted(first):
        cells.setdefault((first[unit], second[unit]), []).append(unit)
    return list(cells.values())


def _cells(groups: Groups) -> dict[Unit, Hashable]:
    """Say in which cell each unit was grouped: by block where the groups do not know."""
    unknown = [g for g in groups if g.cell is None]
    one = any(len({unit[0].block for unit in g.members}) > 1 for g in unknown)
    return {
        unit: (g.cell, None if one or g.cell is not None else unit[0].block)
        for g in groups
        for unit in g.members
    }
