"""The curve of a run: the metric against the heads removed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deadhead.display.words import number, short_names
from deadhead.errors import DataError
from deadhead.measure import Metric
from deadhead.pruning.trajectory import Trajectory
from deadhead.report.style import (
    COLORS,
    GRAY,
    INK,
    LINES,
    MARKERS,
    PALE,
    add_grid,
    label_text,
    legend_above,
    needs_log_axis,
    new_figure,
)
from deadhead.studies.baseline import RandomBaseline

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
        _label_axes(axes, metrics.pop(), list(curves.values()), measured_on)
        legend_above(figure, 3 if len(axes.get_legend_handles_labels()[1]) > 4 else 2)
    return figure


def _draw_curve(axes: Axes, label: str, curve: Trajectory, i: int) -> None:
    points = [(s.mask.sparsity, s.metric) for s in curve if not math.isnan(s.metric)]
    x, y = np.array(points).reshape(-1, 2).T
    axes.plot(
        100 * x,
        y,
        color=COLORS[i % len(COLORS)],
        linestyle=LINES[(i + i // len(COLORS)) % len(LINES)],
        marker=MARKERS[i % len(MARKERS)],
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


def _label_axes(
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
