"""Figures of how alike heads are: distances, trees, agreement, removed shares, attention."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from deadhead.errors import DataError
from deadhead.report.style import (
    COLORS,
    GRAY,
    INK,
    PALE,
    add_grid,
    hide_frame,
    label_text,
    legend_above,
    name_label,
    new_figure,
)
from deadhead.similarity.agreement import RemovedShare
from deadhead.similarity.distances import HeadDistances

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP_COLUMNS = 4  # attention maps side by side
UNNAMED_TOKENS = 60  # beyond these, tokens of an attention map are not named


def similarity_heatmap(distances: HeadDistances) -> Figure:
    """Draw the distances of all heads to one another; lines divide blocks. Dark = alike."""
    if len(distances.matrices) != 1 or not len(distances.matrices[0]):
        raise DataError(
            f"a heat map shows one matrix of all heads, these are {len(distances.matrices)};"
            ' measure with scope="global"'
        )
    (matrix,), (units,) = distances.matrices, distances.units
    blocks = [unit[0].block for unit in units]
    names = sorted(set(blocks))
    edges = [*(blocks.index(name) for name in names), len(blocks)]
    with new_figure(6.6, 5.5) as figure:
        axes = figure.add_subplot()
        top = float(matrix.max()) or 1.0
        image = axes.imshow(matrix, cmap="YlGnBu_r", vmin=0, vmax=top, gid="distances")
        for edge in edges[1:-1]:
            for way, line in (("row", axes.axhline), ("column", axes.axvline)):
                line(
                    edge - 0.5,
                    color="white",
                    linewidth=1.4 if len(names) < 13 else 0.7,
                    gid=f"border-{way}-{edge}",
                )
        every = math.ceil(len(names) / 24)
        centers = [(a + b - 1) / 2 for a, b in pairwise(edges)]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(centers[::every], [str(name) for name in names[::every]])
        hide_frame(axes)
        what = "head" if all(len(unit) == 1 for unit in units) else "key/value head"
        axes.set_xlabel(f"block (within it, {what} by {what})")
        axes.set_ylabel("block")
        label = f"{distances.metric} distance (0 = the same)"
        bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0, 0.04, 1)), label=label)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def agreement_figure(agreement: pd.DataFrame) -> Figure:
    """Draw the adjusted Rand index of clusterings, as `similarity.agreement` returned it."""
    rows = agreement.to_dict("records")
    if not rows:
        raise DataError("there is no agreement to draw; compare two clusterings or more")
    rows.sort(key=lambda row: row["first"] != row["second"])
    with new_figure(7.2, 1.3 + 0.34 * len(rows)) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color=GRAY, linestyle=":", linewidth=1.2, gid="chance")
        axes.axvline(1, color=PALE, linewidth=1.2)
        labeled: set[bool] = set()
        for at, row in enumerate(rows):
            same = row["first"] == row["second"]
            name = "draws of one prompt set" if same else "two prompt sets"
            if not math.isnan(row["low"]):
                ends = ([row["low"], row["high"]], [at, at])
                axes.plot(
                    *ends, color=COLORS[not same], linewidth=2, alpha=0.55, gid=f"interval-{at}"
                )
            axes.plot(
                [row["mean"]],
                [at],
                color=COLORS[not same],
                marker="o" if same else "s",
                linestyle="none",
                label=None if same in labeled else name,
                gid=f"mean-{at}",
            )
            labeled.add(same)
        axes.set_yticks(range(len(rows)), [pair_name(row) for row in rows], fontsize=9)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("adjusted Rand index (1 = the same groups, 0 = as by chance)")
        legend_above(figure, 2)
    return figure


def pair_name(row: Mapping[Hashable, Any]) -> str:
    """Name the one or two prompt sets that a row of an agreement compares."""
    return ", ".join(dict.fromkeys(name_label(row[key]) for key in ("first", "second")))


def removed_share_figure(rows: Sequence[RemovedShare], *, criterion: str = "") -> Figure:
    """Draw the fraction of important heads removed against the fraction of all heads removed.

    Shaded: the central 95% for as many heads drawn at random.
    """
    if not rows:
        raise DataError("there is no share of removed heads to draw; give at least one percentage")
    from matplotlib.ticker import PercentFormatter

    rows = sorted(rows, key=lambda row: row.n_dropped)
    x = [100 * row.n_dropped / row.n_heads for row in rows]
    with new_figure(7.2, 4.2) as figure:
        axes = figure.add_subplot()
        add_grid(axes)
        low, high = ([100 * getattr(row, end) for row in rows] for end in ("low", "high"))
        band = {"color": PALE, "alpha": 0.8, "linewidth": 0, "gid": "chance"}
        if len(rows) > 1:
            axes.fill_between(x, low, high, label="random heads, 95%", **band)
        expected = [100 * row.expected for row in rows]
        axes.plot(x, expected, color=GRAY, linestyle=(0, (2, 1)), label="random heads, mean")
        share = [100 * row.share for row in rows]
        axes.plot(x, share, color=COLORS[0], marker="o", label="these groups", gid="share")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(decimals=0))
        axes.set_xlim(0, 100)
        axes.set_ylim(-3, 103)
        by = f" by {name_label(criterion)}" if criterion else ""
        axes.set_xlabel("heads removed")
        axes.set_ylabel(f"of the {rows[0].n_important} most important{by}, removed")
        legend_above(figure)
    return figure


def attention_figure(
    maps: Sequence[np.ndarray], tokens: Sequence[str], heads: Sequence[object]
) -> Figure:
    """Draw attention maps, one panel per head: rows are the queries, columns the keys.

    Shape: `maps` are (query, key) each, probabilities, one for each of `heads`.
    """
    n = len(tokens)
    if not len(maps) or len(maps) != len(heads) or any(m.shape != (n, n) for m in maps):
        raise DataError(
            f"{len(maps)} attention maps of {n} tokens for {len(heads)} heads; give one square map"
            " of these tokens for each head"
        )
    columns = min(MAP_COLUMNS, len(maps)) if len(maps) != MAP_COLUMNS + 1 else 3
    rows = math.ceil(len(maps) / columns)
    side = float(np.clip(0.17 * n, 1.7, 10 / columns if columns > 1 else 7))
    names = [label_text(token) for token in tokens]
    margin = min(0.075 * max(map(len, tokens)), 1.6) if n <= UNNAMED_TOKENS else 0.3
    size = (max(columns * (side + 0.2) + margin + 0.9, 3.4), rows * (side + 0.4) + margin + 0.5)
    with new_figure(*size, layout="compressed") as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        image: Any = None
        for number, (axes, weights, head) in enumerate(zip(grid.flat, maps, heads, strict=False)):
            image = axes.imshow(weights, cmap="YlGnBu", vmin=0, vmax=1, gid=f"map-{number}")
            axes.set_title(label_text(f"head {head}"), fontsize=10)
            if n <= UNNAMED_TOKENS:
                small = {"fontsize": float(np.clip(72 * side / n * 0.75, 4, 8.5))}
                below = number + columns >= len(maps)
                axes.set_xticks(range(n), names if below else [""] * n, rotation=90, **small)
                axes.set_yticks(range(n), [""] * n if number % columns else names, **small)
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set(visible=True, color=PALE)
        for axes in grid.flat[len(maps) :]:
            axes.set_axis_off()
        bar = figure.colorbar(image, ax=grid, shrink=0.9, aspect=30)
        bar.set_label("attention", fontsize=10)
        bar.ax.tick_params(labelsize=9)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        figure.supylabel("query token", fontsize=10)
        figure.supxlabel("key token", fontsize=10)
    return figure


COLUMNS = 4  # trees side by side
TOO_MANY_LEAVES = 110  # beyond these there are no labels


@dataclass(frozen=True, eq=False)
class Dendrogram:
    """One tree, and where it is cut.

    Attributes:
        tree: SciPy linkage, (units - 1, 4); one unit alone has a tree without a row.
        labels: names of the units, in the order of their rows.
        n_groups: groups that the cut leaves; None: it is not cut.
    """

    tree: np.ndarray
    labels: tuple[str, ...]
    n_groups: int | None = None
    title: str = ""

    def __post_init__(self) -> None:
        units, groups = len(self.tree) + 1, 1 if self.n_groups is None else self.n_groups
        if len(self.labels) != units or not 1 <= groups <= units:
            raise DataError(
                f"{len(self.labels)} labels and {self.n_groups} groups for a tree of {units} units;"
                f" give each a label, and ask for 1 to {units} groups"
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
    """Draw trees at one scale; each group below a cut has a color, the cut is a dashed line."""
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
