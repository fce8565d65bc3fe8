"""The page of a run, and the README.md of its cut checkpoint."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from deadhead.display import NOTHING, number, short_count, short_name, size_change
from deadhead.display.html import grid_text
from deadhead.report.page import (
    Listing,
    Page,
    Plot,
    add_provenance,
    data_table,
    markdown_text,
    provenance_table,
)
from deadhead.report.run_figures import curve_figure, head_map_figure
from deadhead.report.summary import RunSummary, caveats, outcome, retained, summary_phrase
from deadhead.report.tables import (
    cost_table,
    legend,
    removed_table,
    run_facts,
    speed_table,
    step_table,
    summary_table,
)

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
    """Write `report.html` and `figures/{curve,head_map}.{png,svg}` into `folder`."""
    return run_page(summary).write(folder)


def run_page(summary: RunSummary) -> Page:
    """Lay out the page of a run."""
    page = Page(summary.title, outcome(summary), _tiles(summary), caveats(summary))
    where = summary.evaluated_on
    other = where != "test" and summary.random is not None
    drawn = " The random baseline was measured on test, so it is not drawn." if other else ""
    page.section(
        "What it cost",
        Plot(
            "curve",
            lambda: _curve(summary),
            "The metric after each step, against the fraction of heads removed; the table of every"
            " step has the numbers",
            f"The metric after each step, measured on {where}.{drawn} Dashed: the dense model.",
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


LOADING = """\
import deadhead  # registers the loader of cut checkpoints
from transformers import {auto_class}

model = {auto_class}.from_pretrained("path/to/this/folder")"""


def model_card(summary: RunSummary) -> str:
    """Write the README.md of a cut checkpoint, with front matter for the Hub; no local paths."""
    title = markdown_text(short_name(summary.title))
    parts = [
        f"---\n{_front_matter(summary)}---\n",
        f"# {title}\n",
        f"{markdown_text(outcome(summary))}\n",
        "## Load it\n",
        *_loading(summary.model),
        "## Numbers\n",
        f"{cost_table(summary).markdown()}\n",
    ]
    if summary.speed:
        parts += ["Speed, beside its ceiling:\n", f"{speed_table(summary.speed).markdown()}\n"]
    parts += [
        "## Heads\n",
        "Kept `#`, removed `.`; a line per block, heads by original index.\n",
        _fenced(grid_text(summary.plan.mask.kept), "text"),
    ]
    if notes := caveats(summary):
        lines = "".join(f"- {markdown_text(note)}\n" for note in notes)
        parts += ["## Before you rely on this\n", lines]
    parts += ["## Provenance\n", _provenance(summary)]
    if command := summary.run.get("command"):
        parts += ["The exact command:\n", _fenced(str(command), "sh")]
    return "\n".join(parts)


def _loading(model: dict[str, Any]) -> list[str]:
    code = LOADING.format(auto_class=_auto_class(model))
    if model.get("needs_deadhead", True):
        return [
            _fenced(code, "python"),
            "Run `pip install deadhead` first: plain transformers cannot build layers that differ\n"
            "in their number of heads. No remote code runs.\n",
        ]
    return [
        _fenced(code.split("\n", 1)[1], "python"),
        "Any tool that uses transformers loads it.\n",
    ]


def _front_matter(summary: RunSummary) -> str:
    import yaml  # comes with huggingface_hub

    fields: dict[str, Any] = {"library_name": "transformers", "tags": ["deadhead", "pruned"]}
    if hub_id := summary.model.get("hub_id"):  # a link: nothing else can be followed
        fields = {"base_model": " ".join(str(hub_id).split()), **fields}
    # one line per value: a value that is wrapped could put "---" at the start of a line
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=float("inf"))


def _public_name(name: str) -> str:
    name = " ".join(name.split())
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(name).is_absolute():
            return kind(name).name
    return name


def _auto_class(model: dict[str, Any]) -> str:
    """Return the recorded class; else the one that a KV cache suggests."""
    given = str(model.get("auto_class") or "")
    if given.isidentifier():
        return given
    is_decoder = model.get("kv_bytes_per_token_before") is not None
    return "AutoModelForCausalLM" if is_decoder else "AutoModel"


def _provenance(summary: RunSummary) -> str:
    facts = run_facts(summary)
    facts["model"] = _public_name(str(facts["model"])) if facts["model"] else None
    tables = [provenance_table(summary.run, facts), data_table(summary.run.get("data"))]
    return "".join(f"{table.markdown()}\n" for table in tables if table)


def _fenced(text: str, language: str) -> str:
    """Fence code with more backticks than it holds in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
