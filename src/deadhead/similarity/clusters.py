"""Trees of heads, cut into exactly as many groups as asked, and the one that stands for a group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from deadhead.errors import BudgetError, DataError, unknown_name

WARD_ON = ("unit", "raw")

# how a distance becomes the Euclidean distance that Ward is defined on; sqrt(2 - 2 cos) is that
# of unit vectors
_EUCLIDEAN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "euclidean": lambda distance: distance,
    "cosine": lambda distance: np.sqrt(2 * distance),
}
_ROUNDING = 1e-9  # 1 - cos of two equal vectors may come out just below 0


def linkage(matrix: np.ndarray, metric: str, *, ward_on: str = "unit") -> np.ndarray:
    """Build the Ward tree of one cell's distances.

    `ward_on="unit"` runs Ward on Euclidean distances, which it is defined on: for `cosine` those of
    the unit vectors, sqrt(2 d) with d = 1 - cos. `ward_on="raw"` runs it on d as it is, as
    published; for `euclidean` the two are the same.

    Shape: `matrix` is (units, units); the tree is SciPy's, (units - 1, 4), lowest merge first. One
    unit alone has a tree without a row.
    Cost: O(units^2) time and memory.

    Raises:
        UnknownNameError: no such metric or `ward_on`.
        DataError: a distance that is NaN, infinite or negative, or a matrix that is no distances.

    Source: Ward 1963, as in `scipy.cluster.hierarchy.linkage`.
    """
    if metric not in _EUCLIDEAN:
        raise unknown_name("distance", metric, _EUCLIDEAN)
    if ward_on not in WARD_ON:
        raise unknown_name("ward_on", ward_on, WARD_ON)
    _check(matrix)
    if len(matrix) == 1:
        return np.zeros((0, 4))
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    condensed = np.maximum(squareform(matrix, checks=False), 0)
    if ward_on == "unit":
        condensed = _EUCLIDEAN[metric](condensed)
    return hierarchy.linkage(condensed, method="ward")


def cut(tree: np.ndarray, n_groups: int) -> list[list[int]]:
    """Cut a tree into exactly `n_groups` groups: of N units, the first N - n merges are applied.

    SciPy's `fcluster(..., "maxclust")` may return fewer groups where merges tie (a nominal 10%
    became 13.4% in published runs), so the merges are counted instead of their heights compared.

    Returns:
        Groups of ascending row numbers, the group with the smallest first.

    Raises:
        BudgetError: there cannot be that many groups.
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
    """Choose the member that stands for a group: one of `members`, as a row number of `matrix`.

    `medoid` has the smallest summed distance to the others, ties to the lower row, so in a pair the
    first. `random` is a draw from `rng`.

    Raises:
        UnknownNameError: there is no such way to choose.
        DataError: `random` without `rng`, or a medoid among distances that are not numbers.
    """
    if how not in REPRESENTATIVES:
        raise unknown_name("representative", how, REPRESENTATIVES)
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
    """Refuse what is no matrix of distances, and name the first wrong entry."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise DataError(f"distances of shape {matrix.shape}; give a square matrix, a row per unit")
    wrong = np.argwhere(~(np.isfinite(matrix) & (matrix >= -_ROUNDING)))
    if not len(wrong):  # NaN is not symmetric either; say that it is NaN
        wrong = np.argwhere(~np.isclose(matrix, matrix.T, rtol=1e-6, atol=_ROUNDING))
    if len(wrong):
        row, column = wrong[0].tolist()
        called = range(len(matrix)) if names is None else names
        raise DataError(
            f"the distance between {called[row]} and {called[column]} is {matrix[row, column]}"
            f" (and {matrix[column, row]} the other way round); distances are finite, 0 or more,"
            " the same both ways: compute them again"
        )
