"""The tables of a run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from deadhead.display.words import NOTHING, number, short_names, signed
from deadhead.measure import SpeedRow
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.report.text_table import TextTable
from deadhead.types import HeadScores

SPARSITIES = (0.25, 0.50, 0.75, 0.90)
TO_KEEP = (0.95, 0.99)
GAP = 0.15  # of the heads
LONG = 30  # steps; longer runs are abbreviated in the middle
MANY = 6  # heads of one step; more are counted


def step_table(trajectory: Trajectory, *, full: bool = False) -> TextTable:
    """List every step; long runs are abbreviated in the middle unless `full`."""
    steps = [_step_cells(i, s, trajectory.dense, full) for i, s in enumerate(trajectory)]
    if not full and len(steps) > LONG:
        more = ["…", "", "", f"{len(steps) - LONG} more steps", "", "", ""]
        steps = [*steps[: LONG // 2], more, *steps[-(LONG // 2) :]]
    columns = ("step", "heads removed", "%", "removed", trajectory.metric, "to dense", "seconds")
    return TextTable(columns, steps, words=("removed",), title=f"{trajectory.judged_by}")


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


def summary_table(curves: Mapping[str, Trajectory] | Trajectory) -> TextTable:
    """Summarize each curve in one row.

    "keeps 95% to" is the largest fraction of heads removed that keeps 95% of the dense quality. A
    value in a gap between measured steps (wider than `GAP` and a head) has a dash, and so has the
    area under a curve that has one: no line is drawn across it.
    """
    named = {"this run": curves} if isinstance(curves, Trajectory) else curves
    metrics = list(dict.fromkeys(str(curve.judged_by) for curve in named.values()))
    short = short_names(named)
    rows = []
    for name, curve in named.items():
        known = any(not math.isnan(step.metric) for step in curve)
        at = [curve.at(sparsity=s) if _has(curve, s) else math.nan for s in SPARSITIES]
        area = curve.auc() if known and not _gaps(curve) else math.nan
        comparable = known and not math.isnan(curve.dense)
        cells = [number(x) for x in (curve.dense, *at, area)]
        cells += [f"{curve.largest_keeping(k):.1%}" if comparable else NOTHING for k in TO_KEEP]
        label = short[name] + (f", {curve.judged_by}" if len(metrics) > 1 else "")
        rows.append([label, *cells])
    columns = ("run", "dense", *(f"at {s:.0%}" for s in SPARSITIES), "AUC")
    columns += tuple(f"keeps {k:.0%} to" for k in TO_KEEP)
    title = metrics[0] if len(metrics) == 1 else ""
    return TextTable(columns, rows, words=("run",), title=title)


def _gaps(curve: Trajectory) -> list[tuple[float, float]]:
    """Return the shares of heads between which nothing was measured, where they are far apart."""
    widest = max(GAP, 1 / max(1, curve.start.mask.n_heads)) + 1e-9
    at = [step.mask.sparsity for step in curve if not math.isnan(step.metric)]
    return [(a, b) for a, b in itertools.pairwise(at) if b - a > widest]


def _has(curve: Trajectory, share: float) -> bool:
    """Whether the metric at a fraction of heads removed can be told from what was measured."""
    known = any(not math.isnan(step.metric) for step in curve)
    return known and not any(a + 1e-9 < share < b - 1e-9 for a, b in _gaps(curve))


def score_table(scores: HeadScores, *, lowest: int | None = None) -> TextTable:
    """List the scores per block, or the `lowest` heads of all blocks, least important first."""
    if lowest is not None:
        ranked = scores.ranking()[:lowest]
        rows = [[str(i + 1), str(h), f"{scores[h]:.4g}"] for i, h in enumerate(ranked)]
        return TextTable(("rank", "head", "score"), rows, title=_title(scores, f"{lowest} lowest"))
    widest = max(scores.counts, default=0)
    rows = []
    for block, values in enumerate(scores.values):
        cells = [NOTHING if math.isnan(x) else f"{x:.2g}" for x in values]
        rows.append([str(block), *cells, *[""] * (widest - len(cells))])
    return TextTable(("block", *map(str, range(widest))), rows, title=_title(scores, "all heads"))


def _title(scores: HeadScores, which: str) -> str:
    (criterion,) = short_names([scores.criterion]).values()
    return f"{criterion}, {which}"


def speed_table(timings: Sequence[SpeedRow]) -> TextTable:
    """List timings before and after, a row per setting, beside the ceiling."""
    rows = [
        [
            row.setting,
            f"{row.batch} x {row.length}",
            f"{row.ms_before:.2f}",
            f"{row.ms_after:.2f}",
            row.words,
            f"{row.low:.2f} to {row.high:.2f}",
            f"{row.ceiling:.2f}x",
        ]
        for row in timings
    ]
    columns = ("setting", "batch x tokens", "ms before", "ms after", "speed")
    columns += ("quartiles of the ratio", "ceiling")
    devices = ", ".join(dict.fromkeys(row.device for row in timings if row.device))
    title = f"medians of paired calls{f', {devices}' if devices else ''}"
    return TextTable(columns, rows, words=("setting", "speed"), title=title)
