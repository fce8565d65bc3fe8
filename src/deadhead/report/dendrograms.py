"""Dendrograms, as SciPy draws them: which heads merge, at what height, and the cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deadhead.errors import BudgetError, DataError
from deadhead.report.style import COLORS, GRAY, INK, label_text, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # trees side by side
TOO_MANY_LEAVES = 110  # beyond these there are no labels


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
    def merged(self) -> int:
        """Number of merges below the cut."""
        return 0 if self.n_groups is None else len(self.labels) - self.n_groups

    @property
    def cut_height(self) -> float | None:
        """Where the cut is drawn: between the last merge below it and the first above."""
        if self.n_groups is None or not len(self.tree):
            return None
        heights = [0.0, *self.tree[:, 2].tolist(), 1.1 * float(self.tree[-1, 2])]
        return (heights[self.merged] + heights[self.merged + 1]) / 2

    def colors(self) -> dict[int, str]:
        """Return the color of each merge below the cut, by its SciPy node: one per group."""
        n_units, found, count = len(self.labels), {}, 0
        for row in reversed(range(self.merged)):  # a group's last merge comes first
            if n_units + row not in found:
                found[n_units + row] = COLORS[count % (len(COLORS) - 1)]
                count += 1
            found |= dict.fromkeys(self.tree[row, :2].astype(int), found[n_units + row])
        return found


def dendrogram_figure(dendrograms: Sequence[Dendrogram], *, height: str = "Ward height") -> Figure:
    """Draw trees at one scale; each group below a cut has a color, the cut is a dashed line.

    Args:
        dendrograms: the trees.
        height: name of the axis.

    Raises:
        DataError: there is no tree.
        MissingDependencyError: matplotlib is not installed.
    """
    if not dendrograms:
        raise DataError("there is no tree to draw; give at least one")
    columns = min(COLUMNS, len(dendrograms))
    rows = math.ceil(len(dendrograms) / columns)
    widest = max(len(d.labels) for d in dendrograms)
    each = float(np.clip(1.2 + 0.2 * widest, 2.3, 11 if columns == 1 else 3.6))
    top = 1.12 * max((d.tree[-1, 2] for d in dendrograms if len(d.tree)), default=0) or 1.0
    with new_figure(max(columns * each, 4.2), (2.1 if columns > 1 else 2.9) * rows + 0.3) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for number, (axes, one) in enumerate(zip(grid.flat, dendrograms, strict=False)):
            _draw(axes, one, number)
            axes.set_ylim(0, top)
        for axes in grid.flat[len(dendrograms) :]:
            axes.set_axis_off()
        figure.supylabel(label_text(height), fontsize=10)
    return figure


def _draw(axes: Axes, one: Dendrogram, number: int) -> None:
    from scipy.cluster import hierarchy  # takes a second to import

    n_units, colors = len(one.labels), one.colors()
    crowded = n_units > TOO_MANY_LEAVES
    if len(one.tree):
        hierarchy.dendrogram(
            one.tree,
            ax=axes,
            labels=[label_text(name) for name in one.labels],
            no_labels=crowded,
            link_color_func=lambda node: colors.get(node, GRAY),
        )
    else:
        axes.set_xticks([5], one.labels)
    if one.cut_height is not None:
        gid = f"cut-{number}"
        axes.axhline(one.cut_height, color=INK, linestyle=(0, (5, 4)), linewidth=1, gid=gid)
    if crowded:
        what = "key/value heads" if "+" in one.labels[0] else "heads"
        axes.set_xlabel(f"{n_units} {what}", fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(label_text(one.title), fontsize=10, loc="left")
