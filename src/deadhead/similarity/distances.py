"""Distances between heads, or between whole key/value groups, from their inner products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deadhead.display import Brief
from deadhead.errors import DataError, HeadError, check_name
from deadhead.files import as_json, read_json, refusing, write_json
from deadhead.files.reading import MIB
from deadhead.models.heads import HeadModel
from deadhead.options.settings import Clustering
from deadhead.similarity.gram import HeadGrams
from deadhead.surgery.groups import members_of
from deadhead.types import Head

METRICS = ("cosine", "euclidean")
Unit = tuple[Head, ...]

_ROUNDING = 1e-9  # by how much, relative to the largest, two sides of a matrix may differ


@dataclass(frozen=True, eq=False, repr=False)
class HeadDistances(Brief):
    """Distances between units: single heads, or all query heads of a key/value group.

    Attributes:
        matrices: one per cell (a block, or the whole model), symmetric float64, zero diagonal.
        units: row i of matrix c is `units[c][i]`.
        metric: `euclidean`, or `cosine` (1 - cos, in [0, 1] as attention is not negative).
        provenance: JSON values.
    """

    matrices: tuple[np.ndarray, ...]
    units: tuple[tuple[Unit, ...], ...]
    metric: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("distance", self.metric, METRICS)
        matrices = tuple(np.array(matrix, dtype=np.float64) for matrix in self.matrices)
        if len(matrices) != len(self.units):
            raise DataError(
                f"there are {len(matrices)} distance matrices for {len(self.units)} lists of heads;"
                " give one matrix each"
            )
        for cell, (matrix, units) in enumerate(zip(matrices, self.units, strict=True)):
            _check(matrix, units, cell)
            matrix.setflags(write=False)
        object.__setattr__(self, "matrices", matrices)

    def between(self, a: Unit, b: Unit) -> float:
        """Return the distance between two units; refuse units that were not compared."""
        for matrix, units in zip(self.matrices, self.units, strict=True):
            if a in units and b in units:
                return float(matrix[units.index(a), units.index(b)])
        for unit in (a, b):
            if not any(unit in units for units in self.units):
                raise HeadError(f"there are no distances of {_name(unit)}; give a compared unit")
        raise HeadError(
            f"{_name(a)} and {_name(b)} are in different blocks, which were not compared;"
            ' measure with scope="global"'
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back to the same distances."""
        return {
            "metric": self.metric,
            "units": [[[str(head) for head in unit] for unit in cell] for cell in self.units],
            "matrices": [matrix.tolist() for matrix in self.matrices],
            "provenance": as_json(dict(self.provenance), "the provenance of distances"),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HeadDistances:
        """Read what `to_json` returned; refuse other data with a `DataError`."""
        advice = "make them with 'deadhead similarity'"
        with refusing(DataError, "these are not distances between heads", advice):
            return cls(
                tuple(_matrix(rows) for rows in data["matrices"]),
                tuple(
                    tuple(tuple(Head.parse(head) for head in unit) for unit in cell)
                    for cell in data["units"]
                ),
                str(data["metric"]),
                dict(data.get("provenance", {})),
            )


def distances(
    grams: HeadGrams, metric: str, *, groups: Sequence[Unit] | None = None
) -> HeadDistances:
    """Turn inner products into distances.

    Args:
        grams: what `head_grams` returned.
        metric: `euclidean`; or `cosine`, 1 - cos, where a vector of zeros is 1 from all others.
        groups: compare these instead of single heads, such as `kv_units(view)`: the distance of
            two groups is that of their concatenated vectors, i-th head against i-th.

    Shape: a matrix per cell of `grams`.
    Unit: that of attention probabilities; lower = more similar. Distances far below 1e-7 of the
    vectors' norms are lost in rounding.

    Raises:
        UnknownNameError: the metric is not known.
        HeadError: a group does not fit the heads, or the groups of a cell differ in size.
    """
    check_name("distance", metric, METRICS)
    if groups is None:
        units = tuple(tuple((head,) for head in heads) for heads in grams.heads)
    else:
        units = _sorted_into_cells(grams, groups)
    matrices = []
    for matrix, heads, cell in zip(grams.matrices, grams.heads, units, strict=True):
        size = len(cell[0]) if cell else 1
        at = {head: row for row, head in enumerate(heads)}
        rows = np.array([[at[head] for head in unit] for unit in cell], int).reshape(-1, size)
        matrices.append(_distances(sum(matrix[np.ix_(i, i)] for i in rows.T), metric))
    provenance = {**grams.provenance, "prompts": grams.prompts}
    return HeadDistances(tuple(matrices), units, metric, provenance)


def kv_units(view: HeadModel) -> tuple[Unit, ...]:
    """List the key/value groups of a model, each as all the query heads that read it."""
    return tuple(
        tuple(Head(number, index) for index in members)
        for number, block in enumerate(view.blocks)
        for members in members_of(block)
    )


def save_distances(distances: HeadDistances, path: Path) -> None:
    """Write distances as JSON; an older file stays until the new one is whole."""
    write_json(path, distances.to_json(), indent=None)


def read_distances(path: Path) -> HeadDistances:
    """Read what `save_distances` wrote; refuse a file without distances with a `DataError`."""
    return HeadDistances.from_json(read_json(path, what="distances of heads", limit=1024 * MIB))


def _distances(gram: Any, metric: str) -> np.ndarray:
    gram = (gram + gram.T) / 2
    square = np.diagonal(gram)
    if metric == "euclidean":
        result = np.sqrt(np.maximum(square[:, None] + square - 2 * gram, 0))
    else:
        norms = np.sqrt(square)
        products = norms[:, None] * norms
        cosines = np.divide(gram, products, out=np.zeros_like(gram), where=products > 0)
        result = np.maximum(1 - cosines, 0)
    np.fill_diagonal(result, 0)
    return result


def _sorted_into_cells(grams: HeadGrams, groups: Sequence[Unit]) -> tuple[tuple[Unit, ...], ...]:
    cell_of = {head: cell for cell, heads in enumerate(grams.heads) for head in heads}
    cells: list[list[Unit]] = [[] for _ in grams.heads]
    placed: set[Head] = set()
    for unit in map(tuple, groups):
        homes = {cell_of.get(head) for head in unit}
        if len(homes) != 1 or None in homes:
            raise HeadError(
                f"the group {_name(unit)!r} does not fit: a group is one or more heads of the model"
                " that were compared with each other"
            )
        twice = [head for head in unit if head in placed or unit.count(head) > 1]
        if twice:
            raise HeadError(f"head {twice[0]} is in two groups; put it into one only")
        placed.update(unit)
        cell = cells[cell_of[unit[0]]]
        cell.append(unit)
        if len(unit) != len(cell[0]):
            raise HeadError(
                f"the groups {_name(cell[0])!r} and {_name(unit)!r} differ in size; compare"
                " groups of the same size, or single heads"
            )
    return tuple(tuple(cell) for cell in cells)


def _matrix(rows: Sequence[Sequence[float]]) -> np.ndarray:
    if not rows:
        return np.zeros((0, 0))
    for row in rows:
        if len(row) != len(rows):
            raise DataError(
                f"a distance matrix of {len(rows)} rows has one of {len(row)} entries; it has to"
                " be square"
            )
    return np.array(rows, dtype=np.float64)


def _check(matrix: np.ndarray, units: Sequence[Unit], cell: int) -> None:
    if matrix.shape != (len(units), len(units)):
        raise DataError(
            f"distance matrix {cell} has shape {matrix.shape}; its {len(units)} heads need"
            f" {(len(units), len(units))}"
        )
    with np.errstate(invalid="ignore"):
        uneven = np.abs(matrix - matrix.T) > _ROUNDING * np.max(np.abs(matrix), initial=0)
    for what, wrong, how in (
        ("is not finite", ~np.isfinite(matrix), "finite"),
        ("is negative", matrix < 0, "0 or more"),
        ("is a head's distance to itself", np.diag(np.diagonal(matrix) != 0), "0"),
        ("differs from its mirror image", uneven, "symmetric"),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            raise DataError(
                f"distance matrix {cell}: the entry {matrix[row, column]!s} between"
                f" {_name(units[row])} and {_name(units[column])} {what}; it has to be {how}"
            )


def _name(unit: Unit) -> str:
    return "+".join(str(head) for head in unit)


GramFn = Callable[[str], HeadGrams]


def measured(view: HeadModel, grams: HeadGrams, clustering: Clustering) -> HeadDistances:
    """Return distances between the units of a clustering.

    Where query heads share keys and values, single heads are compared within their key/value group
    only, because a head cannot take over another's keys without its whole group; `unit="kv"`
    compares the groups.
    """
    check_units(view, clustering)
    if clustering.unit == "kv":
        return distances(grams, clustering.distance, groups=kv_units(view))
    between = distances(grams, clustering.distance)
    return _within_groups(view, between) if clustering.scope == "per_block" else between


def unmeasured(view: HeadModel, clustering: Clustering) -> HeadDistances:
    """Return the units of random groups, which need no distances: all are 0."""
    cells = tuple(
        tuple(Head(number, index) for index in block.original.heads)
        for number, block in enumerate(view.blocks)
    )
    nothing = tuple(np.zeros((len(cell), len(cell))) for cell in cells)
    grams = HeadGrams(nothing, cells, prompts=0)
    return measured(view, grams, replace(clustering, distance="euclidean"))


def check_units(view: HeadModel, clustering: Clustering) -> None:
    """Refuse, before any pass, key/value heads with unequal numbers of query heads."""
    if clustering.unit != "kv":
        return
    units = sorted(kv_units(view), key=len)
    if units and len(units[0]) != len(units[-1]):
        (few, some), (many, more) = ((len(u), u[0].block) for u in (units[0], units[-1]))
        raise HeadError(
            f"unit 'kv' needs key/value heads with as many query heads each: those of block {some}"
            f" have {few}, those of block {more} have {many} (earlier cuts copied keys, or took"
            " some heads of each); compare single heads (--unit head), or the uncut model"
        )


def _within_groups(view: HeadModel, whole: HeadDistances) -> HeadDistances:
    """Split the cells of blocks that share key/value heads into a cell per key/value head."""
    matrices: list[np.ndarray] = []
    units = []
    for matrix, row in zip(whole.matrices, whole.units, strict=True):
        block = view.blocks[row[0][0].block] if row else None
        rows = [list(range(len(row)))]
        if block is not None and block.n_heads != block.n_kv_heads:
            groups = members_of(block)
            rows = [[i for i, (h, *_) in enumerate(row) if h.index in group] for group in groups]
        for at in rows:
            matrices.append(matrix[np.ix_(at, at)])
            units.append(tuple(row[i] for i in at))
    return HeadDistances(tuple(matrices), tuple(units), whole.metric, whole.provenance)
