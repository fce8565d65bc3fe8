"""Dendrograms: which heads merge, at what height, and where the tree is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deadhead.errors import BudgetError, DataError
from deadhead.report.figures import COLOURS, GREY, INK, LINES, STYLE, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # trees side by side in a grid
MANY_LEAVES = 20  # beyond these, labels get small
TOO_MANY_LEAVES = 110  # beyond these there are no labels, and lines are thin
LONG_LABEL = 3  # characters; longer labels of leaves stand upright


@dataclass(frozen=True, eq=False)
class Dendrogram:
    """One tree, and where it is cut.

    Attributes:
        tree: SciPy linkage, (units - 1, 4); one unit alone has a tree without a row.
        labels: names of the units, in the order of their rows.
        n_groups: groups that the cut leaves; None: it is not cut.
        title: above the tree.
    """

    tree: np.ndarray
    labels: tuple[str, ...]
    n_groups: int | None = None
    title: str = ""

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.tree) + 1:
            raise DataError(
                f"{len(self.labels)} labels for a tree of {len(self.tree) + 1} units; give one each"
            )
        if self.n_groups is not None and not 1 <= self.n_groups <= len(self.labels):
            raise BudgetError(
                f"{self.n_groups} groups of {len(self.labels)} units; ask for 1 to"
                f" {len(self.labels)}"
            )

    @property
    def cut_height(self) -> float | None:
        """Where the cut is drawn: between the last merge below it and the first above."""
        if self.n_groups is None or not len(self.tree):
            return None
        merged = len(self.labels) - self.n_groups
        heights = [0.0, *self.tree[:, 2].tolist(), 1.1 * float(self.tree[-1, 2])]
        return (heights[merged] + heights[merged + 1]) / 2

    def colours(self) -> list[int | None]:
        """Number the groups of two or more; None for merges above the cut. One per merge."""
        n_units = len(self.labels)
        merged = n_units - (self.n_groups or n_units)
        group_of: list[int | None] = [None] * len(self.tree)
        count = 0
        for row in range(merged - 1, -1, -1):  # from the last merge below the cut, down
            if group_of[row] is None:
                group_of[row] = count
                count += 1
            for child in self.tree[row, :2].astype(int):
                if child >= n_units:
                    group_of[child - n_units] = group_of[row]
        return group_of


def dendrogram_figure(
    tree: np.ndarray,
    labels: Sequence[str],
    n_groups: int | None = None,
    title: str = "",
    *,
    height: str = "Ward height",
) -> Figure:
    """Draw one tree; groups that the cut leaves have a colour each, the cut is a dashed line.

    Args:
        tree: SciPy linkage of the units, as `similarity.linkage` makes it.
        labels: names of the units.
        n_groups: groups that the cut leaves; None draws no cut.
        title: above the tree.
        height: name of the axis.

    Raises:
        DataError, BudgetError: the labels or the number of groups do not fit the tree.
        MissingDependencyError: matplotlib is not installed.
    """
    one = Dendrogram(np.asarray(tree), tuple(labels), n_groups, title)
    matplotlib = require_matplotlib()
    with matplotlib.rc_context(STYLE):
        width = float(np.clip(1.6 + 0.28 * len(one.labels), 4.2, 11))
        figure = matplotlib.figure.Figure(figsize=(width, 3.2), layout="constrained")
        _draw(figure.add_subplot(), one, _top([one]))
        figure.supylabel(height, fontsize=10)
    return figure


def dendrogram_grid(dendrograms: Sequence[Dendrogram], *, height: str = "Ward height") -> Figure:
    """Draw all trees at one scale, so that blocks can be compared.

    Raises:
        DataError: there is no tree.
        MissingDependencyError: matplotlib is not installed.
    """
    if not dendrograms:
        raise DataError("there is no tree to draw; give at least one")
    matplotlib = require_matplotlib()
    columns = min(COLUMNS, len(dendrograms))
    rows = math.ceil(len(dendrograms) / columns)
    widest = max(len(d.labels) for d in dendrograms)
    each = float(np.clip(0.9 + 0.16 * widest, 2.3, 10 if columns == 1 else 3.6))
    with matplotlib.rc_context(STYLE):
        size = (max(columns * each, 4.2), 2.1 * rows + 0.3)
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for number, (axes, one) in enumerate(zip(grid.flat, dendrograms, strict=False)):
            _draw(axes, one, _top(dendrograms), number)
            if number % columns:
                axes.tick_params(labelleft=False)
        for axes in grid.flat[len(dendrograms) :]:
            axes.set_axis_off()
        figure.supylabel(height, fontsize=10)
    return figure


def _top(dendrograms: Sequence[Dendrogram]) -> float:
    """Return the upper end of the axis: heights are 0 or more, and not all 0."""
    return 1.12 * max((d.tree[-1, 2] for d in dendrograms if len(d.tree)), default=0) or 1.0


def _draw(axes: Axes, one: Dendrogram, top: float, number: int = 0) -> None:
    from scipy.cluster import hierarchy  # takes a second to import

    n_units, order = len(one.labels), [0]
    crowded = n_units > TOO_MANY_LEAVES
    if len(one.tree):
        colours = one.colours()
        drawn: list[int] = []

        def remember(node: int) -> str:
            drawn.append(node - n_units)
            return INK

        shape = hierarchy.dendrogram(one.tree, no_plot=True, link_color_func=remember)
        order = shape["leaves"]
        for row, x, y in zip(drawn, shape["icoord"], shape["dcoord"], strict=True):
            group = colours[row]
            # SciPy puts leaf i at 10 i + 5
            axes.plot(
                (np.array(x) - 5) / 10,
                y,
                color=GREY if group is None else COLOURS[group % (len(COLOURS) - 1)],
                linestyle="-" if group is None else LINES[group // (len(COLOURS) - 1) % 3],
                linewidth=(1.1 if group is None else 2) / (1 + crowded),
                gid=f"{'above' if group is None else 'group'}-{number}-{group}-{row}",
            )
    if one.cut_height is not None:
        axes.axhline(
            one.cut_height, color=INK, linestyle=(0, (5, 4)), linewidth=1, gid=f"cut-{number}"
        )
    axes.set_xlim(-0.6, n_units - 0.4)
    axes.set_ylim(0, top)
    names = [one.labels[leaf] for leaf in order]
    upright = n_units > MANY_LEAVES or max(map(len, names)) > LONG_LABEL
    where = range(0 if crowded else n_units)
    axes.set_xticks(where, names[: len(where)], rotation=90 if upright else 0)
    if crowded:
        what = "key/value heads" if "+" in names[0] else "heads"
        axes.set_xlabel(f"{n_units} {what}", fontsize=9)
    axes.tick_params(axis="x", length=0, labelsize=8.5 if n_units <= MANY_LEAVES else 6)
    axes.tick_params(axis="y", labelsize=8.5)
    axes.spines["bottom"].set_visible(False)
    if one.title:
        axes.set_title(one.title, fontsize=10, loc="left")
