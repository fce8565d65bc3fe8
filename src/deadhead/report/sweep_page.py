"""The page and figures of a sweep: every method and action at every amount of heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from deadhead.display import NOTHING, Brief, number, short_name
from deadhead.measure import speed_words
from deadhead.pruning.trajectory import Metric
from deadhead.report.page import Page, Plot, TextTable, add_provenance
from deadhead.report.style import (
    GRAY,
    PALE,
    add_grid,
    label_text,
    line_style,
    name_label,
    needs_log_axis,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deadhead.studies.grid import Line, Reading

MANY = 10  # methods that a figure tells apart
OTHERS = "others"
INTERVALS = "In brackets: 95% interval over examples; for random heads, 95% of the draws."


@dataclass(frozen=True, repr=False)
class SweepSummary(Brief):
    """What a page says about a sweep: a line per method, action and share, and facts."""

    title: str
    lines: Sequence[Line]
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def judges(self) -> dict[str, Metric]:
        """The metric of each judge, by the judge's name."""
        readings = next((line.readings for line in self.lines if line.readings), {})
        return {judge: Metric(r.metric, r.greater_is_better) for judge, r in readings.items()}


def sweep_table(summary: SweepSummary) -> TextTable:
    """List every line: heads asked for and removed, what each judge measured, and its size."""
    judges = {
        judge: f"{metric.name} on {short_name(judge)}, {metric.better}"
        for judge, metric in summary.judges.items()
    }
    sizes = {"parameters": any("parameters" in line.size for line in summary.lines)}
    sizes["speed"] = any(" speedup" in key for line in summary.lines for key in line.size)
    rows = []
    for line in summary.lines:
        cells = [line.method + (f" ({line.draws} draws)" if line.draws else ""), line.action]
        cells += [f"{line.asked:.0%}", *(_reading(line, judge) for judge in judges)]
        cells += [str(line.dropped), f"{line.actual:.1%}"]
        parameters = line.size.get("parameters")
        cells += [NOTHING if parameters is None else f"{parameters:,.0f}"] * sizes["parameters"]
        rows.append([*cells, *[_speed(line.size)] * sizes["speed"]])
    columns = ("method", "action", "asked", *judges.values(), "heads", "actual")
    columns += tuple(name for name, known in sizes.items() if known)
    words = ("method", "action", *judges.values(), "speed")
    return TextTable(columns, rows, words=words, title=short_name(summary.title), keys=3)


def _reading(line: Line, judge: str) -> str:
    reading = line.readings.get(judge)
    if reading is None:
        return line.reason.partition(";")[0] or NOTHING
    if math.isnan(reading.low):
        return number(reading.value)
    return f"{number(reading.value)} [{number(reading.low)}, {number(reading.high)}]"


def _speed(size: Mapping[str, float]) -> str:
    texts = []
    for setting in (k.removesuffix(" speedup") for k in size if k.endswith(" speedup")):
        low, high = size[f"{setting} speedup low"], size[f"{setting} speedup high"]
        ceiling = size[f"{setting} ceiling"]
        headline = speed_words(size[f"{setting} speedup"], low, high, ceiling)
        said = f"{headline} [{low:.2f}, {high:.2f}]"
        texts.append(f"{setting} {said}, ceiling {ceiling:.2f}x")
    return "; ".join(texts) or NOTHING


def sweep_figure(lines: Sequence[Line], judge: str) -> Figure:
    """Draw one judge's metric against the fraction of heads removed, a panel per action.

    Random draws are a band (95% of draws). Of more than `MANY` methods those nearest to the dense
    model are told apart. Values that differ by more than a factor of 30 have a log axis.
    """
    dense = next((x.readings[judge] for x in lines if x.method == "dense"), None)
    kept = [line for line in lines if judge in line.readings and line.method != "dense"]
    actions = list(dict.fromkeys(line.action for line in kept if not line.draws)) or ["mask"]
    methods = list(dict.fromkeys(line.method for line in kept if not line.draws))
    named = _nearest(kept, methods, judge, dense)
    drawn = [line.method for line in kept if line.draws]
    legend = 0.6 + 0.075 * max(map(len, [*named, *drawn, OTHERS]))  # inches
    with new_figure(3.6 * len(actions) + legend, 4.0) as figure:
        panels = figure.subplots(1, len(actions), sharey=True, squeeze=False)[0]
        for axes, action in zip(panels, actions, strict=True):
            add_grid(axes)
            axes.set_title(action, fontsize=11)
            axes.set_xlabel("heads removed, %")
            _draw_random(axes, kept, judge)
            if dense is not None:
                axes.axhline(dense.value, color=GRAY, linewidth=1.2, linestyle="--", label="dense")
            for method in methods:
                i = named.index(method) if method in named else None
                _draw_method(axes, kept, (method, action), judge, i)
            axes.set_xticks(sorted({round(100 * line.asked) for line in kept}))
        if needs_log_axis([line.readings[judge].value for line in kept]):
            panels[0].set_yscale("log")
        read = next((line.readings[judge] for line in kept), None)
        if read is not None:
            better = Metric(read.metric, read.greater_is_better).better
            panels[0].set_ylabel(f"{label_text(read.metric)} on {name_label(judge)}\n({better})")
        _add_legend(figure, panels, len(methods) - len(named))
    return figure


def _add_legend(figure: Figure, panels: Sequence[Axes], others: int) -> None:
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if others:
        handles[f"{others} others"] = handles.pop(OTHERS)
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9
    )


def _nearest(
    lines: Sequence[Line], methods: Sequence[str], judge: str, dense: Reading | None
) -> list[str]:
    """Return the methods that are told apart, in order; all if they are few."""
    if len(methods) <= MANY or dense is None:
        return list(methods)
    far = {
        method: [abs(x.readings[judge].value - dense.value) for x in lines if x.method == method]
        for method in methods
    }
    nearest = sorted(methods, key=lambda method: sum(far[method]) / len(far[method]))[:MANY]
    return [method for method in methods if method in nearest]


def _draw_random(axes: Axes, lines: Sequence[Line], judge: str) -> None:
    for at, method in enumerate(dict.fromkeys(x.method for x in lines if x.draws)):
        drawn = sorted((x for x in lines if x.method == method), key=lambda x: x.actual)
        x = [100 * line.actual for line in drawn]
        readings = [line.readings[judge] for line in drawn]
        shade = ("#8c959f", "#d4a72c", "#6cb6ff")[at % 3]
        low, high = [r.low for r in readings], [r.high for r in readings]
        axes.fill_between(x, low, high, color=shade, alpha=0.22, linewidth=0)
        axes.plot(x, [r.value for r in readings], color=shade, label=name_label(method))


def _draw_method(
    axes: Axes, lines: Sequence[Line], key: tuple[str, str], judge: str, i: int | None
) -> None:
    """Draw one method: the `i`-th of those that are told apart, or one of the others (None)."""
    chosen = [line for line in lines if (line.method, line.action) == key]
    points = sorted((100 * line.actual, line.readings[judge].value) for line in chosen)
    if points:
        how = {"color": PALE, "linewidth": 0.8, "zorder": 1, "label": OTHERS}
        if i is not None:
            how = {**line_style(i), "markersize": 4, "linewidth": 1.4, "label": name_label(key[0])}
        axes.plot(*zip(*points, strict=True), **how)


def sweep_page(summary: SweepSummary) -> Page:
    """Lay out the page of a sweep."""
    caveats = [str(note) for note in summary.run.get("notes") or ()]
    page = Page(summary.title, _outcome(summary), caveats=caveats)
    plots = [
        Plot(
            f"sweep-{at}",
            partial(sweep_figure, summary.lines, judge),
            f"{metric} on {short_name(judge)} against the fraction of heads removed; the table"
            " below has the numbers",
            f"{short_name(judge)}. Bands hold 95% of the random draws.",
        )
        for at, (judge, metric) in enumerate(summary.judges.items())
    ]
    page.section("What each choice costs", *plots, INTERVALS, sweep_table(summary))
    model = summary.run.get("model") or {}
    parameters = model.get("parameters")
    facts = {
        "model": model.get("name"),
        "parameters": None if parameters is None else f"{parameters:,}",
    }
    add_provenance(page, summary.run, facts)
    return page


def _outcome(summary: SweepSummary) -> str:
    shares = sorted({line.actual for line in summary.lines if line.method != "dense"})
    methods = {line.method for line in summary.lines if line.method != "dense"}
    said = ", ".join(f"{share:.0%}" for share in shares)
    return f"{len(methods)} methods, with {said} of the heads removed, on one loaded model."
