"""The page and figures of a sweep: every method and action at every amount of heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.errors import MissingDependencyError
from deadhead.files import write_text
from deadhead.report.contents import data_rows
from deadhead.report.figures import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    PALE,
    STYLE,
    label_text,
    require_matplotlib,
    save_figure,
)
from deadhead.report.page import render_page
from deadhead.report.tables import Rows
from deadhead.report.wording import NOTHING, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deadhead.studies.readings import Line, Reading

MANY = 10  # methods that a figure tells apart
OTHERS = "others"


@dataclass(frozen=True)
class SweepSummary:
    """What a page says about a sweep.

    Attributes:
        title: e.g. `opt-blimp: sweep`.
        lines: one per method, action and share; draws are put together.
        run: `command`, `versions`, `data`, `notes`, `seed`, `date`, `model`.
    """

    title: str
    lines: Sequence[Line]
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def judges(self) -> list[str]:
        """Names of what the models were judged on."""
        return list(next((line.readings for line in self.lines if line.readings), {}))


def sweep_rows(summary: SweepSummary) -> Rows:
    """List every line: what was asked for and had, what each judge read, what it weighs."""
    judges = summary.judges
    columns = ("method", "action", "asked", "heads", "actual", *judges, "parameters", "speed")
    rows = []
    for line in summary.lines:
        cells = [line.method + (f" ({line.draws} draws)" if line.draws else ""), line.action]
        cells += [f"{line.asked:.0%}", str(line.dropped), f"{line.actual:.1%}"]
        cells += [_reading(line, judge) for judge in judges]
        parameters = line.size.get("parameters")
        cells.append(NOTHING if parameters is None else f"{parameters:,.0f}")
        rows.append([*cells, _speed(line.size)])
    return Rows(columns, rows, words=("method", "action", *judges, "speed"))


def _reading(line: Line, judge: str) -> str:
    reading = line.readings.get(judge)
    if reading is None:
        return line.reason.partition(";")[0] or NOTHING
    if math.isnan(reading.low):
        return number(reading.value)
    return f"{number(reading.value)} [{number(reading.low)}, {number(reading.high)}]"


def _speed(size: Mapping[str, float]) -> str:
    settings = [k.removesuffix(" speedup") for k in size if k.endswith(" speedup")]
    texts = [
        f"{s} {size[f'{s} speedup']:.2f}x [{size[f'{s} speedup low']:.2f},"
        f" {size[f'{s} speedup high']:.2f}]"
        for s in settings
    ]
    ceiling = next((size[k] for k in size if k.endswith(" ceiling")), None)
    return f"{', '.join(texts)}; ceiling {ceiling:.2f}x" if texts else NOTHING


def sweep_figure(lines: Sequence[Line], judge: str) -> Figure:
    """Draw one judge's metric against the share of heads that went, a panel per action.

    Random draws are a band (95% of draws), the dense model is a line. Of more than `MANY` methods
    those nearest to the dense model (in the mean over shares) are told apart, the others are thin
    and grey. The axis of a metric whose values differ by more than a factor of 30 (perplexity) is
    logarithmic.
    """
    matplotlib = require_matplotlib()
    dense = next((x.readings[judge] for x in lines if x.method == "dense"), None)
    kept = [line for line in lines if judge in line.readings and line.method != "dense"]
    actions = list(dict.fromkeys(line.action for line in kept if not line.draws)) or ["mask"]
    methods = list(dict.fromkeys(line.method for line in kept if not line.draws))
    named = _nearest(kept, methods, judge, dense)
    with matplotlib.rc_context(STYLE):
        drawn = [line.method for line in kept if line.draws]
        legend = 0.6 + 0.075 * max(map(len, [*named, *drawn, OTHERS]))  # inches
        figure = matplotlib.figure.Figure(
            figsize=(3.6 * len(actions) + legend, 4.0), layout="constrained"
        )
        panels = figure.subplots(1, len(actions), sharey=True, squeeze=False)[0]
        for axes, action in zip(panels, actions, strict=True):
            axes.grid(axis="y", color=PALE, linewidth=0.6)
            axes.set_title(action, fontsize=11)
            axes.set_xlabel("heads gone, %")
            _draw_random(axes, kept, judge)
            if dense is not None:
                axes.axhline(dense.value, color=GREY, linewidth=1.2, linestyle="--", label="dense")
            for method in methods:
                i = named.index(method) if method in named else None
                _draw_method(axes, kept, (method, action), judge, i)
            axes.set_xticks(sorted({round(100 * line.asked) for line in kept}))
        values = [line.readings[judge].value for line in kept]
        if values and min(values) > 0 and max(values) > 30 * min(values):
            panels[0].set_yscale("log")
        metric = next((line.readings[judge].metric for line in kept), "")
        panels[0].set_ylabel(label_text(f"{metric} on {judge}"))
        handles: dict[str, Any] = {}
        for axes in panels:
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(name, handle)
        if others := len(methods) - len(named):
            handles[f"{others} others"] = handles.pop(OTHERS)
        figure.legend(
            handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9
        )
    return figure


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
    for number_, method in enumerate(dict.fromkeys(x.method for x in lines if x.draws)):
        drawn = sorted((x for x in lines if x.method == method), key=lambda x: x.actual)
        x = [100 * line.actual for line in drawn]
        readings = [line.readings[judge] for line in drawn]
        shade = ("#8c959f", "#d4a72c", "#6cb6ff")[number_ % 3]
        low, high = [r.low for r in readings], [r.high for r in readings]
        axes.fill_between(x, low, high, color=shade, alpha=0.22, linewidth=0)
        axes.plot(x, [r.value for r in readings], color=shade, linewidth=1.2, label=method)


def _draw_method(
    axes: Axes, lines: Sequence[Line], key: tuple[str, str], judge: str, i: int | None
) -> None:
    """Draw one method: the `i`-th of those that are told apart, or one of the others (None)."""
    points = sorted(
        (100 * line.actual, line.readings[judge].value)
        for line in lines
        if (line.method, line.action) == key
    )
    if points and i is None:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=PALE, linewidth=0.8, zorder=1, label=OTHERS)
    elif points and i is not None:
        x, y = zip(*points, strict=True)
        axes.plot(
            x,
            y,
            color=COLOURS[i % len(COLOURS)],
            linestyle=LINES[i // len(COLOURS) % len(LINES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            linewidth=1.4,
            label=label_text(key[0]),
        )


def write_sweep_page(summary: SweepSummary, folder: Path) -> Path:
    """Write `report.html`, and a figure per judge as PNG and SVG; without matplotlib none."""
    figures = {}
    try:
        for at, judge in enumerate(summary.judges):
            paths = save_figure(
                sweep_figure(summary.lines, judge), folder / "figures", f"sweep-{at}"
            )
            figures[f"sweep-{at}"] = paths[-1].read_text(encoding="utf-8")
    except MissingDependencyError:
        figures = {}
    model = summary.run.get("model") or {}
    page = render_page(
        "sweep.html.j2",
        figures,
        title=summary.title,
        outcome=_outcome(summary),
        caveats=[str(note) for note in summary.run.get("notes") or ()],
        tiles=[],
        captions={f"sweep-{at}": judge for at, judge in enumerate(summary.judges)},
        lines=sweep_rows(summary),
        command=str(summary.run.get("command") or ""),
        data=data_rows(summary.run.get("data") or {}),
        facts=[
            ("model", str(model.get("name", NOTHING))),
            ("parameters", f"{model.get('parameters') or 0:,}"),
            *((k, str(summary.run[k])) for k in ("seed", "date") if k in summary.run),
        ],
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _outcome(summary: SweepSummary) -> str:
    shares = sorted({line.actual for line in summary.lines if line.method != "dense"})
    methods = {line.method for line in summary.lines if line.method != "dense"}
    said = ", ".join(f"{share:.0%}" for share in shares)
    return f"{len(methods)} ways of choosing, at {said} of the heads; one model, loaded once."
