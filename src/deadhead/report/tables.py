"""Tables of a run: plain rows first, then rich for the terminal and markdown for files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from deadhead.measure.latency import SpeedRow
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.report.wording import NOTHING, number, signed
from deadhead.types import HeadMask, HeadScores

SPARSITIES = (0.25, 0.50, 0.75, 0.90)
TO_KEEP = (0.95, 0.99)
GAP = 0.15  # of the heads
LONG = 30  # steps; longer runs are abbreviated in the middle
MANY = 6  # heads of one step; more are counted


@dataclass(frozen=True)
class Rows:
    """A table as text: column names, rows of cells, and the columns that hold words.

    Other columns hold numbers, and are set to the right.
    """

    columns: tuple[str, ...]
    rows: list[list[str]]
    words: tuple[str, ...] = ()


def step_rows(trajectory: Trajectory, *, full: bool = False) -> Rows:
    """List every step; long runs are abbreviated in the middle unless `full`."""
    steps = list(enumerate(trajectory))
    columns = ("step", "heads dropped", "%", "dropped", trajectory.metric, "to dense", "seconds")
    if full or len(steps) <= LONG:
        rows = [_step_cells(i, s, trajectory.dense, full) for i, s in steps]
    else:
        half = LONG // 2
        rows = [_step_cells(i, s, trajectory.dense, full) for i, s in steps[:half]]
        rows.append(["…", "", "", f"{len(steps) - LONG} more steps", "", "", ""])
        rows += [_step_cells(i, s, trajectory.dense, full) for i, s in steps[-half:]]
    return Rows(columns, rows, words=("dropped",))


def _step_cells(index: int, step: Step, dense: float, full: bool) -> list[str]:
    heads = [str(h) for h in step.dropped]
    if len(heads) > MANY and not full:
        heads = [*heads[:MANY], f"… {len(heads) - MANY} more"]
    return [
        str(index),
        str(len(step.mask.dropped)),
        f"{step.mask.sparsity:.1%}",
        " ".join(heads) or NOTHING,
        number(step.metric),
        signed(step.metric - dense) if index else NOTHING,
        f"{step.seconds:.1f}",
    ]


def summary_rows(curves: Mapping[str, Trajectory]) -> Rows:
    """Compare curves by what one reads off them, a row per curve.

    "keeps 95% to" is the largest share of heads dropped that keeps 95% of the dense metric. A
    share in a gap between measured steps (wider than `GAP` and a head) has a dash, and so has the
    area under a curve that has one: no line is drawn across it.
    """
    columns = ("run", "metric", "dense", *(f"at {s:.0%}" for s in SPARSITIES), "AUC")
    columns += tuple(f"keeps {k:.0%} to" for k in TO_KEEP)
    rows = []
    for name, curve in curves.items():
        known = any(not math.isnan(step.metric) for step in curve)
        cells = [number(curve.at(sparsity=s) if _has(curve, s) else math.nan) for s in SPARSITIES]
        cells.append(number(curve.auc() if known and not _gaps(curve) else math.nan))
        comparable = known and not math.isnan(curve.dense)
        cells += [f"{curve.largest_keeping(k):.1%}" if comparable else NOTHING for k in TO_KEEP]
        rows.append([name, curve.metric, number(curve.dense), *cells])
    return Rows(columns, rows, words=("run", "metric"))


def _gaps(curve: Trajectory) -> list[tuple[float, float]]:
    """Return the shares of heads between which nothing was measured, where they are far apart."""
    widest = max(GAP, 1 / max(1, curve.start.mask.n_heads)) + 1e-9
    at = [step.mask.sparsity for step in curve if not math.isnan(step.metric)]
    return [(a, b) for a, b in itertools.pairwise(at) if b - a > widest]


def _has(curve: Trajectory, share: float) -> bool:
    """Whether the metric at a share of heads dropped can be told from what was measured."""
    known = any(not math.isnan(step.metric) for step in curve)
    return known and not any(a + 1e-9 < share < b - 1e-9 for a, b in _gaps(curve))


def score_rows(scores: HeadScores, *, lowest: int | None = None) -> Rows:
    """List the scores per block, or the `lowest` heads of all blocks, least important first."""
    if lowest is not None:
        ranked = scores.ranking()[:lowest]
        rows = [[str(i + 1), str(h), f"{scores[h]:.4g}"] for i, h in enumerate(ranked)]
        return Rows(("rank", "head", scores.criterion), rows)
    widest = max(scores.counts, default=0)
    rows = []
    for block, values in enumerate(scores.values):
        cells = [NOTHING if math.isnan(x) else f"{x:.2g}" for x in values]
        rows.append([str(block), *cells, *[""] * (widest - len(cells))])
    return Rows(("block", *map(str, range(widest))), rows)


def speed_rows(timings: Sequence[SpeedRow]) -> Rows:
    """List timings before and after, a row per setting, beside the ceiling."""
    columns = ("setting", "batch", "length", "ms before", "ms after", "speedup", "quartiles")
    rows = [
        [
            row.setting,
            str(row.batch),
            str(row.length),
            f"{row.ms_before:.2f}",
            f"{row.ms_after:.2f}",
            f"{row.speedup:.2f}x",
            f"{row.low:.2f} to {row.high:.2f}",
            f"{row.ceiling:.2f}x",
            row.device,
        ]
        for row in timings
    ]
    return Rows((*columns, "ceiling", "device"), rows, words=("setting", "device"))


def grid_text(mask: HeadMask) -> str:
    """Draw the heads as text, a line per block: kept `#`, removed `.`."""
    width = len(str(max(len(mask.kept) - 1, 0)))
    lines = [
        f"block {block:>{width}}  {''.join('#' if kept else '.' for kept in row)}"
        f"  {sum(row)} of {len(row)}"
        for block, row in enumerate(mask.kept)
    ]
    return "\n".join(lines)


def step_table(trajectory: Trajectory, *, full: bool = False) -> Table:
    """Show every step in the terminal; long runs are abbreviated unless `full`."""
    return rich_table(step_rows(trajectory, full=full))


def summary_table(curves: Mapping[str, Trajectory] | Trajectory) -> Table:
    """Show what one reads off one or more curves in the terminal."""
    named = {"this run": curves} if isinstance(curves, Trajectory) else curves
    return rich_table(summary_rows(named))


def score_table(scores: HeadScores, *, lowest: int | None = None) -> Table:
    """Show scores in the terminal: per block, or the `lowest` heads."""
    title = scores.criterion if lowest is None else f"{lowest} least important heads"
    return rich_table(score_rows(scores, lowest=lowest), title=title)


def speed_table(timings: Sequence[SpeedRow]) -> Table:
    """Show timings in the terminal."""
    return rich_table(speed_rows(timings))


def rich_table(table: Rows, *, title: str | None = None) -> Table:
    """Turn rows into a rich table; nothing in the cells is read as markup."""
    out = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=Text(title) if title else None,
        title_justify="left",
    )
    for name in table.columns:
        words = name in table.words
        justify = "left" if words else "right"
        out.add_column(Text(name), justify=justify, no_wrap=not words, min_width=9 if words else 1)
    for row in table.rows:
        out.add_row(*(Text(cell) for cell in row))
    return out


def markdown_table(
    rows: Sequence[Sequence[object]], columns: Sequence[str], *, words: Sequence[str] = ()
) -> str:
    """Write a markdown table; columns not in `words` are set to the right.

    Bars and line breaks in cells are escaped, and so is HTML.
    """
    lines = [
        _markdown_row(columns),
        _markdown_row([":--" if name in words else "--:" for name in columns]),
        *(_markdown_row(row) for row in rows),
    ]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(markdown_text(str(cell)) for cell in cells)} |"


def markdown_text(text: str) -> str:
    """Escape one line of text for markdown: HTML, bars and line breaks."""
    line = " ".join(text.split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
