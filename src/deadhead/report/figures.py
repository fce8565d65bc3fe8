"""Figures of a run, as matplotlib `Figure` objects: no pyplot, no display, no global state."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deadhead.errors import DataError, MissingDependencyError
from deadhead.files import replacing
from deadhead.pruning.trajectory import Trajectory
from deadhead.report.wording import number
from deadhead.studies.baseline import RandomBaseline
from deadhead.types import HeadMask, HeadScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by every common kind of colour vision. Lines and markers
# change too, so that a grey print can be read.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (7, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY, PALE = "#24292f", "#6e7781", "#d0d7de"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "hatch.linewidth": 0.8,
    "svg.fonttype": "path",
}
MANY_POINTS = 120  # beyond this many evaluated steps, only every few get a marker
LOW = 1.8  # inches; a map below this height has its colour bar underneath
LOG_SPAN = 100.0  # positive scores that differ by more than this factor get a log scale


def require_matplotlib() -> Any:
    """Return matplotlib.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise MissingDependencyError(
            "figures need matplotlib, which is not installed; pip install 'deadhead[plot]'"
        ) from error
    return matplotlib


def curve_figure(
    curves: Mapping[str, Trajectory],
    *,
    random: RandomBaseline | None = None,
    chance: float | None = None,
    chosen: tuple[float, float] | None = None,
    measured_on: str | None = None,
) -> Figure:
    """Draw the metric against the share of heads removed.

    Args:
        curves: one line each, with a point wherever the model was evaluated.
        random: shaded 95% interval and mean of random removal.
        chance: metric of guessing, a dotted line.
        chosen: (sparsity, metric) of the model that was kept in the end, ringed.
        measured_on: name of the set, for the axis; what else is drawn has to be of the same.

    Raises:
        DataError: no curves, or curves of different metrics.
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = require_matplotlib()
    metrics = sorted({curve.metric for curve in curves.values()})
    if len(metrics) != 1:
        what = " and ".join(map(repr, metrics)) or "no curves"
        raise DataError(f"one figure shows curves of one metric; got {what}")
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="y", color=PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        if random is not None:
            _draw_random(axes, random)
        for i, (name, curve) in enumerate(curves.items()):
            _draw_curve(axes, name, curve, i % len(COLOURS))
        _draw_dense(axes, list(curves.values()))
        if chance is not None:
            axes.axhline(chance, color=GREY, linestyle=":", linewidth=1.2, label="chance")
        if chosen is not None and not math.isnan(chosen[1]):
            _draw_chosen(axes, chosen)
        _label_curve_axes(axes, metrics[0], list(curves.values()), measured_on)
    return figure


def _draw_curve(axes: Axes, name: str, curve: Trajectory, i: int) -> None:
    points = [(s.mask.sparsity, s.metric) for s in curve if not math.isnan(s.metric)]
    x, y = np.array(points).reshape(-1, 2).T
    axes.plot(
        100 * x,
        y,
        color=COLOURS[i],
        linestyle=LINES[i],
        marker=MARKERS[i],
        markersize=4.5 if len(x) <= 40 else 3,
        markevery=max(1, math.ceil(len(x) / MANY_POINTS)),
        linewidth=1.8,
        label=label_text(name),
        gid=f"curve-{i}",
    )


def _draw_dense(axes: Axes, curves: Sequence[Trajectory]) -> None:
    levels = dict.fromkeys(c.dense for c in curves if not math.isnan(c.dense))
    for i, level in enumerate(levels):
        colour = INK if len(levels) == 1 else COLOURS[i % len(COLOURS)]
        axes.axhline(
            level,
            color=colour,
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
    axes.plot(x, random.mean, color=GREY, linewidth=1, linestyle=(0, (2, 1)), label="random, mean")


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


def _label_curve_axes(
    axes: Axes, metric: str, curves: Sequence[Trajectory], measured_on: str | None
) -> None:
    from matplotlib.ticker import PercentFormatter

    better = "higher" if curves[0].greater_is_better else "lower"
    axes.set_xlabel("heads removed")
    where = f" on {measured_on}" if measured_on else ""
    axes.set_ylabel(label_text(f"{metric}{where} ({better} is better)"))
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=None))
    furthest = max((step.mask.sparsity for curve in curves for step in curve), default=1)
    axes.set_xlim(-1.5, max(100 * furthest, 1) + 1.5)
    values = [s.metric for c in curves for s in c if np.isfinite(s.metric)]
    if better == "lower" and values and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
    figure = axes.figure
    columns = 3 if len(axes.get_legend_handles_labels()[1]) > 4 else 2
    figure.legend(loc="outside upper center", frameon=False, fontsize=9.5, ncols=columns)


def head_map_figure(scores: HeadScores | None, mask: HeadMask | None = None) -> Figure:
    """Draw the scores as blocks x heads; heads that `mask` drops are crossed out.

    Dark = important. Scores that were not computed (NaN) are hatched grey. Blocks may differ in
    their number of heads. Positive scores over more than two decades get a log scale; scores with
    infinities, or with extremes that would hide the rest, are shown by rank. Without any scores
    the map shows what the mask drops, and has no colour bar.

    Raises:
        DataError: neither scores nor a mask.
        HeadError: the mask is for another model.
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = require_matplotlib()
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    any_scores = scores is not None
    if scores is None:
        if mask is None:
            raise DataError("there is nothing to map; give scores, a mask, or both")
        scores = HeadScores(tuple(np.full(n, np.nan) for n in mask.counts), "")
    mask = mask or HeadMask.full(scores.counts)
    mask.check_shape(scores.counts)
    values = _padded(scores)
    exists = np.zeros(values.shape, dtype=bool)
    for block, n in enumerate(scores.counts):
        exists[block, :n] = True
    shown, norm, label = _scale(values, label_text(scores.criterion))
    n_blocks, widest = values.shape
    cell = float(np.clip(min(7.0 / max(widest, 1), 9.0 / max(n_blocks, 1)), 0.16, 0.42))
    size = (max(widest * cell + 2.0, 4.6), max(n_blocks * cell + 1.3, 2.6))
    edges = np.arange(widest + 1) - 0.5, np.arange(n_blocks + 1) - 0.5
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        lines = {"edgecolors": "white", "linewidth": 0.6}
        mesh = axes.pcolormesh(
            *edges, np.ma.masked_invalid(shown), cmap="YlGnBu", norm=norm, gid="scores", **lines
        )
        unscored = np.ma.masked_where(~(exists & np.isnan(values)), np.zeros(values.shape))
        keys = _cross_out(axes, mask, mesh, cell)
        if unscored.count():
            grey = ListedColormap([PALE])
            hatch = "////" if any_scores else None
            axes.pcolor(*edges, unscored, cmap=grey, hatch=hatch, gid="not-scored", **lines)
            if any_scores:
                keys.append(
                    Patch(facecolor=PALE, edgecolor="white", hatch=hatch, label="not scored")
                )
        if keys:
            place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2}
            axes.legend(handles=keys, frameon=False, fontsize=9.5, borderaxespad=0.2, **place)
        _label_map_axes(axes, n_blocks, widest, cell)
        if any_scores:
            _draw_bar(axes, mesh, label, values.shape, cell)
    return figure


def _draw_bar(axes: Axes, mesh: Any, label: str, shape: tuple[int, ...], cell: float) -> None:
    n_blocks, widest = shape
    if n_blocks * cell < LOW:
        bar = axes.figure.colorbar(mesh, ax=axes, label=label, location="bottom", aspect=40)
    else:  # as high as the map, at any shape
        inch = 1 / (max(widest, 1) * cell)
        bar_axes = axes.inset_axes((1 + 0.15 * inch, 0, 0.16 * inch, 1))
        bar = axes.figure.colorbar(mesh, cax=bar_axes, label=label)
    bar.outline.set_visible(False)


def _padded(scores: HeadScores) -> np.ndarray:
    """Return one array, NaN where there is no head; shape (blocks, widest block)."""
    out = np.full((len(scores.counts), max(scores.counts, default=0)), np.nan)
    for block, row in enumerate(scores.values):
        out[block, : len(row)] = row
    return out


def _scale(values: np.ndarray, criterion: str) -> tuple[np.ndarray, Any, str]:
    """Return what to colour by, the norm, and the label of the colour bar."""
    from matplotlib.colors import LogNorm, Normalize

    known = values[~np.isnan(values)]
    finite = known[np.isfinite(known)]
    if not finite.size:
        return _ranks(values), Normalize(0, 1), f"rank by {criterion}"
    low, high = float(finite.min()), float(finite.max())
    if finite.size == known.size:
        if low > 0 and high > LOG_SPAN * low:
            return values, LogNorm(low, high), f"{criterion} (log scale)"
        # the middle half in one hundredth of the range: a linear scale would show two colours
        middle = float(np.subtract(*np.quantile(finite, [0.75, 0.25])))
        if high == low or middle * LOG_SPAN > high - low:
            return values, Normalize(low, high if high > low else low + 1), criterion
    return _ranks(values), Normalize(0, max(known.size - 1, 1)), f"rank by {criterion} (0 = least)"


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank the values that are not NaN, 0 = lowest; equal values share the mean rank."""
    ranks = np.full(values.shape, np.nan)
    known = ~np.isnan(values)
    _, inverse, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    ranks[known] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _cross_out(axes: Axes, mask: HeadMask, mesh: Any, cell: float) -> list[Any]:
    """Put one cross on every removed head, dark on pale cells and pale on dark ones.

    Returns what to put in the legend.
    """
    from matplotlib.lines import Line2D

    gone = mask.dropped
    if not gone:
        return []
    colours = mesh.to_rgba(mesh.get_array()).reshape(*mesh.get_array().shape, 4)
    # a cell without a score is clear: what is below it is pale
    luminance = [float(colours[h] @ (0.299, 0.587, 0.114, -1)) + 1 for h in gone]
    axes.scatter(
        [h.index for h in gone],
        [h.block for h in gone],
        marker="x",
        s=(72 * cell * 0.5) ** 2,
        linewidths=max(0.8, 4.2 * cell),
        c=[INK if light > 0.5 else "white" for light in luminance],
        zorder=3,  # also above heads without a score
        gid="removed",
    )
    label = f"removed ({len(gone)} of {mask.n_heads})"
    return [Line2D([], [], color=INK, marker="x", linestyle="none", label=label)]


def _label_map_axes(axes: Axes, n_blocks: int, widest: int, cell: float) -> None:
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
    axes.tick_params(length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def save_figure(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write `name.png` and `name.svg`; the same figure gives the same SVG bytes, on any day."""
    matplotlib = require_matplotlib()
    paths = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        path = Path(folder) / f"{name}.{kind}"
        with (
            matplotlib.rc_context({**STYLE, "svg.hashsalt": name}),
            warnings.catch_warnings(),
            replacing(path) as temporary,
        ):
            # a name in a script that the font lacks is drawn as boxes; nothing else is lost
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(temporary, format=kind, metadata=metadata, dpi=160)
        paths.append(path)
    return paths


def label_text(text: str) -> str:
    """Make a name safe as a label: no mathtext, no line breaks, no leading underscore (hidden)."""
    line = " ".join(text.split()).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line
