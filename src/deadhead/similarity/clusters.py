"""Ward trees of units, cut into an exact number of groups, and the representative of a group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from deadhead.errors import BudgetError, DataError, check_name

WARD_ON = ("unit", "raw")
# turn a distance into the Euclidean one that Ward needs; for unit vectors it is sqrt(2 - 2 cos)
_EUCLIDEAN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "euclidean": lambda distance: distance,
    "cosine": lambda distance: np.sqrt(2 * distance),
}
_ROUNDING = 1e-9  # 1 - cos of two equal vectors may come out just below 0


def linkage(matrix: np.ndarray, metric: str, *, ward_on: str = "unit") -> np.ndarray:
    """Build the Ward tree of one cell's distances, (units, units).

    `ward_on="unit"` runs Ward on Euclidean distances, as it is defined: for `cosine` on those of
    the unit vectors, sqrt(2 d) with d = 1 - cos. `ward_on="raw"` runs it on d itself, as published;
    for `euclidean` the two are the same.

    Shape: the tree is SciPy's, (units - 1, 4), lowest merge first.
    Source: Ward 1963, as in `scipy.cluster.hierarchy.linkage`.

    Raises:
        UnknownNameError: no such metric or `ward_on`.
        DataError: a distance is NaN, infinite or negative, or the matrix is not symmetric.
    """
    check_name("distance", metric, _EUCLIDEAN)
    check_name("ward_on", ward_on, WARD_ON)
    _check(matrix)
    if len(matrix) == 1:
        return np.zeros((0, 4))
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    condensed = np.maximum(squareform(matrix, checks=False), 0)
    if ward_on == "unit":
        condensed = _EUCLIDEAN[metric](condensed)
    return hierarchy.linkage(condensed, method="ward")


def cut_tree(tree: np.ndarray, n_groups: int) -> list[list[int]]:
    """Cut a tree into exactly `n_groups` groups: of N units, the first N - n merges are applied.

    SciPy's `fcluster(..., "maxclust")` may return fewer groups where merges tie (a nominal 10%
    became 13.4% in published runs), so we count merges instead of comparing their heights. Groups
    are ascending row numbers, the group with the smallest first.
    """
    n_units = len(tree) + 1
    if not 1 <= n_groups <= n_units:
        raise BudgetError(f"{n_groups} groups of {n_units} units; ask for 1 to {n_units}")
    groups = {unit: [unit] for unit in range(n_units)}
    merges = tree[: n_units - n_groups, :2].astype(int).tolist()
    for number, (left, right) in enumerate(merges, start=n_units):
        groups[number] = groups.pop(left) + groups.pop(right)
    return sorted(sorted(members) for members in groups.values())


def representative(
    matrix: np.ndarray,
    members: Sequence[int],
    *,
    how: str = "medoid",
    rng: np.random.Generator | None = None,
) -> int:
    """Choose the representative of a group: one of `members`, as a row number of `matrix`.

    `medoid` has the smallest summed distance to the others, ties to the lower row. `random` is a
    draw from `rng`.
    """
    check_name("representative", how, REPRESENTATIVES)
    return REPRESENTATIVES[how](matrix, sorted(members), rng)


def _medoid(matrix: np.ndarray, members: list[int], _: np.random.Generator | None) -> int:
    """Take the member with the smallest summed distance to the others."""
    among = matrix[np.ix_(members, members)]
    if not np.isfinite(among).all():
        _check(among, members)
    sums = [math.fsum(row) for row in among]  # exact, so that ties are ties in any order
    return members[sums.index(min(sums))]


def _random(_: np.ndarray, members: list[int], rng: np.random.Generator | None) -> int:
    """Take a member drawn with the seed."""
    if rng is None:
        raise DataError("representative 'random' draws from a generator, and none was given: rng=")
    return members[int(rng.integers(len(members)))]


REPRESENTATIVES = {"medoid": _medoid, "random": _random}


def _check(matrix: np.ndarray, names: Sequence[int] | None = None) -> None:
    """Refuse what is not a distance matrix, and name the first wrong entry."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise DataError(f"distances of shape {matrix.shape}; give a square matrix, a row per unit")
    wrong = np.argwhere(~(np.isfinite(matrix) & (matrix >= -_ROUNDING)))
    if not len(wrong):  # NaN is not symmetric either; say that it is NaN
        wrong = np.argwhere(~np.isclose(matrix, matrix.T, rtol=1e-6, atol=_ROUNDING))
    if len(wrong):
        row, column = wrong[0].tolist()
        rows = range(len(matrix)) if names is None else names
        raise DataError(
            f"the distance between {rows[row]} and {rows[column]} is {matrix[row, column]}"
            f" (and {matrix[column, row]} the other way round); distances are finite, 0 or more,"
            " the same both ways: compute them again"
        )
