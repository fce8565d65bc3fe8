"""The report of a run: one HTML file that needs nothing else, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deadhead.errors import MissingDependencyError
from deadhead.files import write_text
from deadhead.report.contents import cost_rows, data_rows, facts_of
from deadhead.report.explained import legend, removed_rows
from deadhead.report.figures import curve_figure, head_map_figure, save_figure
from deadhead.report.page import render_page
from deadhead.report.summary import RunSummary
from deadhead.report.tables import grid_text, speed_rows, step_rows, summary_rows
from deadhead.report.wording import NOTHING, caveats, change, deed, number, outcome, retained


def write_report(summary: RunSummary, folder: Path | str) -> Path:
    """Write `report.html` and `figures/{curve,head_map}.{png,svg}` into `folder`.

    The page holds its figures and styles itself: no script, no network, light and dark, and made
    to be printed. Without matplotlib it is written with the head map as text, and says so. Each
    file appears complete or not at all.

    Returns the path of the page.
    """
    folder = Path(folder)
    try:
        figures = _write_figures(summary, folder / "figures")
    except MissingDependencyError:
        figures = {}
    write_text(folder / "report.html", render(summary, figures))
    return folder / "report.html"


def render(summary: RunSummary, figures: Mapping[str, str]) -> str:
    """Return the page; `figures` holds SVG source for `curve` and `head_map`, or is empty."""
    explanation = summary.explanation
    return render_page(
        "report.html.j2",
        figures,
        title=summary.title,
        outcome=outcome(summary),
        caveats=caveats(summary),
        tiles=_tiles(summary),
        grid=grid_text(summary.plan.mask),
        criterion=None if summary.scores is None else summary.scores.criterion,
        costs=cost_rows(summary),
        speed=speed_rows(summary.speed),
        evaluated_on=summary.evaluated_on,
        has_random=summary.random is not None,
        readings=summary_rows({summary.title: summary.trajectory}),
        steps=step_rows(summary.trajectory, full=True),
        removed=None if explanation is None else removed_rows(explanation, [*explanation.criteria]),
        legend=() if explanation is None else legend(explanation),
        data=data_rows(summary.run.get("data") or {}),
        command=str(summary.run.get("command") or ""),
        facts=facts_of(summary),
    )


def _write_figures(summary: RunSummary, folder: Path) -> dict[str, str]:
    on_test = {
        "random": summary.random,
        "chance": summary.evaluation.get("chance"),
        "chosen": (summary.plan.mask.sparsity, summary.after),
    }
    figures = {
        "curve": curve_figure(
            {summary.chosen_by: summary.trajectory},
            measured_on=summary.evaluated_on,
            **(on_test if summary.evaluated_on == "test" else {}),
        ),
        "head_map": head_map_figure(summary.scores, summary.plan.mask),
    }
    written = {name: save_figure(figure, folder, name) for name, figure in figures.items()}
    return {name: paths[-1].read_text(encoding="utf-8") for name, paths in written.items()}


def _tiles(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of the numbers on top."""
    mask, metric, model = summary.plan.mask, summary.trajectory.metric, summary.model
    start = summary.trajectory.start.mask
    notes = deed(summary).partition(" heads ")[2]
    tiles = [
        ("heads", f"{start.n_kept} → {mask.n_kept}", notes),
        (metric, f"{number(summary.before)} → {number(summary.after)}", retained(summary)),
    ]
    before, after = model.get("parameters_before"), model.get("parameters_after")
    if before and after is not None:
        tiles.append(("parameters", f"{size(before)} → {size(after)}", change(before, after)))
    if summary.speed:
        row = summary.speed[0]
        note = f"{row.setting}, batch {row.batch} x {row.length}; ceiling {row.ceiling:.2f}x"
        tiles.append(("speed", f"{row.speedup:.2f}x", note))
    return [(name, value, "" if note == NOTHING else note) for name, value, note in tiles]


def size(count: int) -> str:
    """Print a number of parameters: `22.7M`."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{name}"
    return str(count)
