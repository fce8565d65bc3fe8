"""The map of all heads: their scores, and which are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deadhead.errors import DataError
from deadhead.report.style import INK, PALE, hide_frame, name_label, new_figure
from deadhead.types import HeadMask, HeadScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOW = 1.8  # inches; a map below this height has its color bar underneath
LINES = {"edgecolors": "white", "linewidth": 0.6}
LOG_SPAN = 100.0  # positive scores that differ by more than this factor get a log scale


def head_map_figure(scores: HeadScores | None, mask: HeadMask | None = None) -> Figure:
    """Draw the scores as blocks x heads; heads that `mask` removes are crossed out.

    Dark = important. Scores that were not computed (NaN) are hatched gray. Blocks may differ in
    their number of heads. Positive scores over more than two decades get a log scale; scores with
    infinities, or with extremes that would hide the rest, are shown by rank. Without any scores
    the map shows what the mask removes, and has no color bar.

    Raises:
        DataError: neither scores nor a mask.
        HeadError: the mask is for another model.
        MissingDependencyError: matplotlib is not installed.
    """
    any_scores = scores is not None
    if scores is None:
        if mask is None:
            raise DataError("there is nothing to map; give scores, a mask, or both")
        scores = HeadScores(tuple(np.full(n, np.nan) for n in mask.counts), "")
    mask = mask or HeadMask.full(scores.counts)
    mask.check_shape(scores.counts)
    values, exists = _padded(scores)
    n_blocks, widest = values.shape
    cell = float(np.clip(min(7.0 / max(widest, 1), 9.0 / max(n_blocks, 1)), 0.16, 0.42))
    size = (max(widest * cell + 2.0, 4.6), max(n_blocks * cell + 1.3, 2.6))
    edges = np.arange(widest + 1) - 0.5, np.arange(n_blocks + 1) - 0.5
    with new_figure(*size) as figure:
        axes = figure.add_subplot()
        shown, norm, label = _scale(values, name_label(scores.criterion))
        cells = np.ma.masked_invalid(shown)
        mesh = axes.pcolormesh(*edges, cells, cmap="YlGnBu", norm=norm, gid="scores", **LINES)
        keys = _cross_out(axes, mask, mesh, cell)
        keys += _mark_unscored(axes, edges, exists & np.isnan(values), hatched=any_scores)
        if keys:
            place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2}
            axes.legend(handles=keys, frameon=False, fontsize=9.5, borderaxespad=0.2, **place)
        _label_axes(axes, n_blocks, widest, cell)
        if any_scores:
            _draw_bar(axes, mesh, label, values.shape, cell)
    return figure


def _mark_unscored(axes: Axes, edges: Any, where: np.ndarray, *, hatched: bool) -> list[Any]:
    """Gray out heads without a score; return what to put in the legend."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    if not where.any():
        return []
    cells, hatch = np.ma.masked_where(~where, np.zeros(where.shape)), "////" if hatched else None
    axes.pcolor(*edges, cells, cmap=ListedColormap([PALE]), hatch=hatch, gid="not-scored", **LINES)
    if not hatched:
        return []
    return [Patch(facecolor=PALE, edgecolor="white", hatch=hatch, label="not scored")]


def _draw_bar(axes: Axes, mesh: Any, label: str, shape: tuple[int, ...], cell: float) -> None:
    n_blocks, widest = shape
    if n_blocks * cell < LOW:
        bar = axes.figure.colorbar(mesh, ax=axes, label=label, location="bottom", aspect=40)
    else:  # as high as the map, at any shape
        inch = 1 / (max(widest, 1) * cell)
        bar_axes = axes.inset_axes((1 + 0.15 * inch, 0, 0.16 * inch, 1))
        bar = axes.figure.colorbar(mesh, cax=bar_axes, label=label)
    bar.outline.set_visible(False)


def _padded(scores: HeadScores) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores, and where there is a head; both (blocks, widest block)."""
    out = np.full((len(scores.counts), max(scores.counts, default=0)), np.nan)
    exists = np.zeros(out.shape, dtype=bool)
    for block, row in enumerate(scores.values):
        out[block, : len(row)], exists[block, : len(row)] = row, True
    return out, exists


def _scale(values: np.ndarray, criterion: str) -> tuple[np.ndarray, Any, str]:
    """Return what to color by, the norm, and the label of the color bar."""
    from matplotlib.colors import LogNorm, Normalize

    known = values[~np.isnan(values)]
    finite = known[np.isfinite(known)]
    if not finite.size:
        return _ranks(values), Normalize(0, 1), f"rank by {criterion}"
    low, high = float(finite.min()), float(finite.max())
    if finite.size == known.size:
        if low > 0 and high > LOG_SPAN * low:
            return values, LogNorm(low, high), f"{criterion} (log scale)"
        # the middle half in one hundredth of the range: a linear scale would show two colors
        middle = float(np.subtract(*np.quantile(finite, [0.75, 0.25])))
        if high == low or middle * LOG_SPAN > high - low:
            return values, Normalize(low, high if high > low else low + 1), criterion
    return _ranks(values), Normalize(0, max(known.size - 1, 1)), f"rank by {criterion} (0 = least)"


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank the values that are not NaN, 0 = lowest; equal values share the mean rank."""
    from scipy.stats import rankdata  # takes a second to import

    return rankdata(values, nan_policy="omit").reshape(values.shape) - 1


def _cross_out(axes: Axes, mask: HeadMask, mesh: Any, cell: float) -> list[Any]:
    """Put one cross on every removed head, dark on pale cells and pale on dark ones.

    Returns what to put in the legend.
    """
    from matplotlib.lines import Line2D

    removed = mask.dropped
    if not removed:
        return []
    colors = mesh.to_rgba(mesh.get_array()).reshape(*mesh.get_array().shape, 4)
    # a cell without a score is clear: what is below it is pale
    luminance = [float(colors[h] @ (0.299, 0.587, 0.114, -1)) + 1 for h in removed]
    axes.scatter(
        [h.index for h in removed],
        [h.block for h in removed],
        marker="x",
        s=(72 * cell * 0.5) ** 2,
        linewidths=max(0.8, 4.2 * cell),
        c=[INK if light > 0.5 else "white" for light in luminance],
        zorder=3,  # also above heads without a score
        gid="removed",
    )
    label = f"removed ({len(removed)} of {mask.n_heads})"
    return [Line2D([], [], color=INK, marker="x", linestyle="none", label=label)]


def _label_axes(axes: Axes, n_blocks: int, widest: int, cell: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_aspect("equal")
    axes.set_xlim(-0.5, widest - 0.5)
    axes.set_ylim(n_blocks - 0.5, -0.5)  # block 0 on top, as in the text grid
    axes.set_xlabel("head")
    axes.set_ylabel("block")
    for axis, count in ((axes.xaxis, widest), (axes.yaxis, n_blocks)):
        if count * cell <= 7 and cell >= 0.25:
            axis.set_ticks(range(count))
        else:
            axis.set_major_locator(MaxNLocator(12, integer=True))
    hide_frame(axes)
