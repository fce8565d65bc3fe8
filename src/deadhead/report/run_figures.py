"""The figures of a run: the curve of its metric, and the map of its heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deadhead.display import number, short_names
from deadhead.errors import DataError
from deadhead.pruning.trajectory import Metric, Trajectory
from deadhead.report.style import (
    COLORS,
    GRAY,
    INK,
    PALE,
    add_grid,
    hide_frame,
    label_text,
    legend_above,
    line_style,
    name_label,
    needs_log_axis,
    new_figure,
)
from deadhead.studies.baseline import RandomBaseline
from deadhead.types import HeadMask, HeadScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_POINTS = 120  # beyond this many evaluated steps, only every few get a marker


def curve_figure(
    curves: Mapping[str, Trajectory],
    *,
    random: RandomBaseline | None = None,
    chance: float | None = None,
    chosen: tuple[float, float] | None = None,
    measured_on: str | None = None,
) -> Figure:
    """Draw the metric against the fraction of heads removed.

    Args:
        curves: one line each, with a point wherever the model was evaluated. Names that are paths
            are shortened, and stay apart.
        random: shaded 95% interval and mean of random removal.
        chance: metric of guessing, a dotted line.
        chosen: (sparsity, metric) of the model that was kept in the end, ringed.
        measured_on: name of the set, for the axis; what else is drawn has to be of the same.

    Raises:
        DataError: no curves, or curves of different metrics.
        MissingDependencyError: matplotlib is not installed.
    """
    metrics = {curve.judged_by for curve in curves.values()}
    if len(metrics) != 1:
        what = " and ".join(sorted(str(m) for m in metrics)) or "no curves"
        raise DataError(f"one figure shows curves of one metric; got {what}")
    with new_figure(7.2, 4.2) as figure:
        axes = figure.add_subplot()
        add_grid(axes)
        if random is not None:
            _draw_random(axes, random)
        names = short_names(curves)
        for i, (name, curve) in enumerate(curves.items()):
            _draw_curve(axes, label_text(names[name]), curve, i)
        _draw_dense(axes, list(curves.values()))
        if chance is not None:
            axes.axhline(chance, color=GRAY, linestyle=":", linewidth=1.2, label="chance")
        if chosen is not None and not math.isnan(chosen[1]):
            _draw_chosen(axes, chosen)
        _label_curves(axes, metrics.pop(), list(curves.values()), measured_on)
        legend_above(figure, 3 if len(axes.get_legend_handles_labels()[1]) > 4 else 2)
    return figure


def _draw_curve(axes: Axes, label: str, curve: Trajectory, i: int) -> None:
    points = [(s.mask.sparsity, s.metric) for s in curve if not math.isnan(s.metric)]
    x, y = np.array(points).reshape(-1, 2).T
    axes.plot(
        100 * x,
        y,
        **line_style(i),
        markersize=4.5 if len(x) <= 40 else 3,
        markevery=max(1, math.ceil(len(x) / MANY_POINTS)),
        linewidth=1.8,
        label=label,
        gid=f"curve-{i}",
    )


def _draw_dense(axes: Axes, curves: Sequence[Trajectory]) -> None:
    levels = dict.fromkeys(c.dense for c in curves if not math.isnan(c.dense))
    for i, level in enumerate(levels):
        color = INK if len(levels) == 1 else COLORS[i % len(COLORS)]
        axes.axhline(
            level,
            color=color,
            linestyle=(0, (6, 4)),
            linewidth=1,
            label=f"dense ({number(level)})",
            gid=f"dense-{i}",
        )


def _draw_random(axes: Axes, random: RandomBaseline) -> None:
    x = 100 * np.array(random.sparsity)
    label = f"random, 95% of {random.n_draws} draws"
    axes.fill_between(
        x, random.low, random.high, color=PALE, alpha=0.8, linewidth=0, label=label, gid="random"
    )
    axes.plot(x, random.mean, color=GRAY, linewidth=1, linestyle=(0, (2, 1)), label="random, mean")


def _draw_chosen(axes: Axes, chosen: tuple[float, float]) -> None:
    axes.plot(
        [100 * chosen[0]],
        [chosen[1]],
        marker="o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor=INK,
        markeredgewidth=1.6,
        linestyle="none",
        label=f"this model ({number(chosen[1])})",
        gid="chosen",
    )


def _label_curves(
    axes: Axes, metric: Metric, curves: Sequence[Trajectory], measured_on: str | None
) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_xlabel("heads removed")
    where = f" on {measured_on}" if measured_on else ""
    axes.set_ylabel(label_text(f"{metric.name}{where} ({metric.better})"))
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=None))
    furthest = max((step.mask.sparsity for curve in curves for step in curve), default=1)
    axes.set_xlim(-1.5, max(100 * furthest, 1) + 1.5)
    values = [s.metric for c in curves for s in c if np.isfinite(s.metric)]
    if not metric.greater_is_better and needs_log_axis(values):
        axes.set_yscale("log")


LOG_SPAN = 100.0  # positive scores that differ by more than this factor get a log scale
CELLS = {"edgecolors": "white", "linewidth": 0.6}


def head_map_figure(scores: HeadScores | None, mask: HeadMask | None = None) -> Figure:
    """Draw the scores as blocks x heads; heads that `mask` removes are crossed out.

    Dark = important, hatched = not scored (NaN). Blocks may differ in their number of heads.
    Positive scores over more than two decades get a log scale; scores with infinities, or with
    extremes that would hide the rest, are shown by rank. Without scores there is no color bar.

    Raises:
        DataError: neither scores nor a mask.
        HeadError: the mask is for another model.
        MissingDependencyError: matplotlib is not installed.
    """
    if scores is None and mask is None:
        raise DataError("there is nothing to map; give scores, a mask, or both")
    mask = mask or HeadMask.full(scores.counts if scores else ())
    rows = [[np.nan] * n for n in mask.counts]
    if scores is not None:
        mask.check_shape(scores.counts)
        rows = scores.values
    values = np.full((len(rows), max(mask.counts, default=0)), np.nan)
    exists = np.zeros(values.shape, dtype=bool)
    for block, row in enumerate(rows):
        values[block, : len(row)], exists[block, : len(row)] = row, True
    high, wide = values.shape
    cell = float(np.clip(min(7.0 / max(wide, 1), 9.0 / max(high, 1)), 0.16, 0.42))  # inches
    with new_figure(max(wide * cell + 2.0, 4.6), max(high * cell + 1.3, 2.6)) as figure:
        axes = figure.add_subplot()
        shown, norm, label = _scale(values, name_label(scores.criterion if scores else ""))
        cells = np.ma.masked_invalid(shown)
        mesh = axes.pcolormesh(cells, cmap="YlGnBu", norm=norm, gid="scores", **CELLS)
        _cross_out(axes, mask, cell)
        _mark_unscored(axes, exists & np.isnan(values), hatched=scores is not None)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)
        _label_axes(axes)
        if scores is not None:
            low = high * cell < 1.8  # inches: no room for a scale beside it
            place: dict[str, Any] = {"location": "bottom", "aspect": 40}
            place = place if low else {"cax": axes.inset_axes((1.03, 0, 0.03, 1))}
            figure.colorbar(mesh, ax=axes, label=label, **place).outline.set_visible(False)
    return figure


def _cross_out(axes: Axes, mask: HeadMask, cell: float) -> None:
    """Put one cross on every removed head, dark with a pale rim: visible on any shade."""
    from matplotlib.patheffects import withStroke

    if not (removed := mask.dropped):
        return
    width = max(0.8, 4.2 * cell)
    axes.scatter(
        [head.index + 0.5 for head in removed],
        [head.block + 0.5 for head in removed],
        marker="x",
        s=(72 * cell * 0.5) ** 2,
        linewidths=width,
        c=INK,
        path_effects=[withStroke(linewidth=2.2 * width, foreground="white")],
        zorder=3,  # also above heads without a score
        label=f"removed ({len(removed)} of {mask.n_heads})",
        gid="removed",
    )


def _mark_unscored(axes: Axes, where: np.ndarray, *, hatched: bool) -> None:
    from matplotlib.colors import ListedColormap

    if where.any():
        cells, hatch = np.ma.masked_where(~where, where), "////" if hatched else None
        gray = {"cmap": ListedColormap([PALE]), "hatch": hatch, "gid": "not-scored"}
        axes.pcolor(cells, **gray, **CELLS)
        if hatched:
            axes.bar(0, 0, color=PALE, edgecolor="white", hatch=hatch, label="not scored")


def _scale(values: np.ndarray, criterion: str) -> tuple[np.ndarray, Any, str]:
    """Return what to color by, the norm, and the label of the color bar."""
    from matplotlib.colors import LogNorm, Normalize
    from scipy.stats import rankdata  # takes a second to import

    known = values[~np.isnan(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    if known.size and np.isfinite([low, high]).all():
        if low > 0 and high > LOG_SPAN * low:
            return values, LogNorm(low, high), f"{criterion} (log scale)"
        # the middle half in one hundredth of the range: a linear scale would show two colors
        middle = float(np.subtract(*np.quantile(known, [0.75, 0.25])))
        if high == low or middle * LOG_SPAN > high - low:
            return values, Normalize(low, high if high > low else low + 1), criterion
    ranks = rankdata(values, nan_policy="omit").reshape(values.shape) - 1  # ties share the mean
    return ranks, Normalize(0, max(known.size - 1, 1)), f"rank by {criterion} (0 = least)"


def _label_axes(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, IndexLocator

    axes.set_aspect("equal")
    axes.invert_yaxis()  # block 0 on top, as in the text grid
    axes.set_xlabel("head")
    axes.set_ylabel("block")
    for axis, count in ((axes.xaxis, axes.get_xlim()[1]), (axes.yaxis, axes.get_ylim()[0])):
        axis.set_major_locator(IndexLocator(max(1, round(count / 16)), 0.5))
        axis.set_major_formatter(FuncFormatter(lambda at, _: str(int(at))))
    hide_frame(axes)
