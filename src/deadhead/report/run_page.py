"""The page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deadhead.display.head_map import grid_text
from deadhead.display.words import NOTHING, number, short_count, short_name, size_change
from deadhead.report.contents import cost_table, run_facts
from deadhead.report.curves import curve_figure
from deadhead.report.explained import legend, removed_table
from deadhead.report.head_maps import head_map_figure
from deadhead.report.page import Listing, Page, Plot, add_provenance
from deadhead.report.summary import RunSummary
from deadhead.report.tables import speed_table, step_table, summary_table
from deadhead.report.wording import caveats, outcome, retained, summary_phrase

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOUT_SPEED = (
    "Medians of paired, alternating calls, with the quartiles of the pairwise ratios. A ratio whose"
    " quartiles include 1, or that exceeds its ceiling, is within noise. Ceiling: parameters that"
    " every token passes through, before / after (embedding tables count only where they are also"
    " the output head). It bounds work that waits for weights, such as decoding at batch 1."
)
ABOUT_REMOVED = "deadhead explain, with the folder of this run, measures what each removal changed."


def write_report(summary: RunSummary, folder: Path | str) -> Path:
    """Write `report.html` and `figures/{curve,head_map}.{png,svg}` into `folder`.

    Returns the path of the page.
    """
    return run_page(summary).write(folder)


def run_page(summary: RunSummary) -> Page:
    """Lay out the page of a run."""
    page = Page(summary.title, outcome(summary), _tiles(summary), caveats(summary))
    where = summary.evaluated_on
    page.section(
        "What it cost",
        Plot(
            "curve",
            lambda: _curve(summary),
            "The metric after each step, against the fraction of heads removed; the table of every"
            " step has the numbers",
            _curve_caption(summary),
        ),
        summary_table(summary.trajectory),
        f"Measured on {where}, as every step below.",
    )
    page.section("Which heads", _map(summary), Listing(grid_text(summary.plan.mask.kept), "# kept"))
    if summary.explanation is not None:
        removed = removed_table(summary.explanation, [*summary.explanation.criteria])
        page.section("Removed heads", removed, *legend(summary.explanation), ABOUT_REMOVED)
    page.section("Before and after", cost_table(summary), str(summary.model.get("saved") or ""))
    speed = speed_table(summary.speed)
    about = (speed, f"{speed.title[0].upper()}{speed.title[1:]}.", ABOUT_SPEED)
    page.section("Speed", *(about if speed else ("Speed was not measured.",)))
    page.section("Every step", step_table(summary.trajectory, full=True))
    add_provenance(page, summary.run, run_facts(summary))
    return page


def _curve(summary: RunSummary) -> Figure:
    curves, where = {summary.chosen_by: summary.trajectory}, summary.evaluated_on
    if where != "test":  # the others were measured on test
        return curve_figure(curves, measured_on=where)
    return curve_figure(
        curves,
        random=summary.random,
        chance=summary.evaluation.get("chance"),
        chosen=(summary.plan.mask.sparsity, summary.after),
        measured_on=where,
    )


def _curve_caption(summary: RunSummary) -> str:
    said = f"The metric after each step, measured on {summary.evaluated_on}."
    if summary.evaluated_on != "test" and summary.random is not None:
        said += " The random baseline was measured on test, so it is not drawn."
    return f"{said} Dashed: the dense model."


def _map(summary: RunSummary) -> Plot:
    if summary.scores is None:
        label, caption = "All heads by block", "No scores were used for the choice."
    else:
        label = "Scores of all heads by block"
        by = short_name(summary.scores.criterion)
        caption = f"Scores of the dense model by {by}; dark = important, hatched = not scored."
    return Plot(
        "head_map",
        lambda: head_map_figure(summary.scores, summary.plan.mask),
        f"{label}, removed heads crossed out; the text below the figure lists them",
        f"{caption} Crossed out = removed.",
    )


def _tiles(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of the numbers on top."""
    mask, metric, model = summary.plan.mask, summary.trajectory.judged_by, summary.model
    start = summary.trajectory.start.mask
    note = summary_phrase(summary).partition(" heads ")[2]
    tiles = [
        ("heads", f"{start.n_kept} → {mask.n_kept}", note),
        (str(metric), f"{number(summary.before)} → {number(summary.after)}", retained(summary)),
    ]
    before, after = model.get("parameters_before"), model.get("parameters_after")
    if before and after is not None:
        sizes = f"{short_count(before)} → {short_count(after)}"
        tiles.append(("parameters", sizes, size_change(before, after)))
    if summary.speed:
        row = summary.speed[0]
        note = f"{row.setting}, batch {row.batch} x {row.length}; ceiling {row.ceiling:.2f}x"
        tiles.append(("speed", row.words, note))
    return [(name, value, "" if note == NOTHING else note) for name, value, note in tiles]
