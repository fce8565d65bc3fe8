"""From attention maps to groups: distances between units, as a clustering needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from deadhead.errors import HeadError
from deadhead.models.heads import HeadModel
from deadhead.options.settings import Clustering
from deadhead.similarity.distances import HeadDistances, distances, kv_units
from deadhead.similarity.gram import HeadGrams
from deadhead.similarity.groupings import group
from deadhead.similarity.groups import Group
from deadhead.surgery.groups import members_of
from deadhead.types import Head, HeadScores

GramFn = Callable[[str], HeadGrams]


def measured(view: HeadModel, grams: HeadGrams, clustering: Clustering) -> HeadDistances:
    """Return distances between the units of a clustering.

    Where query heads share keys and values, single heads are compared within their key/value group
    only, because a head cannot take over another's keys without its whole group; `unit="kv"`
    compares the groups.

    Raises:
        HeadError: `unit="kv"`, and the groups of the model differ in size.
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


def _within_groups(view: HeadModel, whole: HeadDistances) -> HeadDistances:
    """Split the cells of blocks that share key/value heads into a cell per key/value head."""
    matrices: list[np.ndarray] = []
    units = []
    for matrix, row in zip(whole.matrices, whole.units, strict=True):
        block = view.blocks[row[0][0].block] if row else None
        if block is None or block.n_heads == block.n_kv_heads:
            matrices.append(matrix)
            units.append(row)
            continue
        for members in members_of(block):
            heads = {Head(row[0][0].block, index) for index in members}
            at = [i for i, (head, *_) in enumerate(row) if head in heads]
            matrices.append(matrix[np.ix_(at, at)])
            units.append(tuple(row[i] for i in at))
    return HeadDistances(tuple(matrices), tuple(units), whole.metric, whole.provenance)
