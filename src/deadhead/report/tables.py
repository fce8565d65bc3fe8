"""The tables of a run, on screen, on its page and in its model card."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from deadhead.display import NOTHING, number, short_name, short_names, signed, size_change
from deadhead.measure import SpeedRow
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.report.page import TextTable, table_of
from deadhead.report.summary import RunSummary, retained
from deadhead.scoring.diagnose import Diagnosis
from deadhead.studies.explanation import Explanation, RemovedHead
from deadhead.types import HeadScores, PruningPlan

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
    """Summarize each curve in one row; "keeps 95% to": the largest fraction removed that keeps 95%.

    A value in a gap between measured steps (wider than `GAP` and a head) has a dash, as the area;
    so has what is kept of a metric that is not above 0 (a negative correlation).
    """
    named = {"this run": curves} if isinstance(curves, Trajectory) else curves
    metrics = list(dict.fromkeys(str(curve.judged_by) for curve in named.values()))
    short = short_names(named)
    rows = []
    for name, curve in named.items():
        known = any(not math.isnan(step.metric) for step in curve)
        at = [curve.at(sparsity=s) if _has(curve, s) else math.nan for s in SPARSITIES]
        area = curve.auc() if known and not _gaps(curve) else math.nan
        comparable = (
            known and curve.dense > 0
        )  # of no correlation or a negative one nothing is kept
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


def score_table(scores: HeadScores) -> TextTable:
    """List the scores per block."""
    widest = max(scores.counts, default=0)
    rows = []
    for block, values in enumerate(scores.values):
        cells = [NOTHING if math.isnan(x) else f"{x:.2g}" for x in values]
        rows.append([str(block), *cells, *[""] * (widest - len(cells))])
    title = f"{short_name(scores.criterion)}, all heads"
    return TextTable(("block", *map(str, range(widest))), rows, title=title)


def speed_table(timings: Sequence[SpeedRow]) -> TextTable:
    """List timings before and after, a row per setting, beside the ceiling."""
    columns = {
        "setting": lambda row: row.setting,
        "batch x tokens": lambda row: f"{row.batch} x {row.length}",
        "ms before": lambda row: f"{row.ms_before:.2f}",
        "ms after": lambda row: f"{row.ms_after:.2f}",
        "speed": lambda row: row.words,
        "quartiles of the ratio": lambda row: f"{row.low:.2f} to {row.high:.2f}",
        "ceiling": lambda row: f"{row.ceiling:.2f}x",
    }
    devices = ", ".join(dict.fromkeys(row.device for row in timings if row.device))
    title = f"medians of paired calls{f', {devices}' if devices else ''}"
    return table_of(timings, columns, words=("setting", "speed"), title=title)


DIVERGENCES = {"test": "test data", "own": "text of its own making"}
SIZES = {"parameters": "parameters", "kv_bytes_per_token": "KV cache bytes per token"}


def cost_table(summary: RunSummary) -> TextTable:
    """List every number that was taken both before and after the cut."""
    metric = summary.trajectory.judged_by
    rows = [[str(metric), number(summary.before), number(summary.after), retained(summary)]]
    ends = [summary.interval(which) for which in ("dense", "pruned")]
    if any(ends):
        cells = [f"{number(e[0])} to {number(e[1])}" if e else NOTHING for e in ends]
        rows.append([f"{metric.name}, 95% interval", *cells, ""])
    dense, pruned = (summary.evaluation.get(which) or {} for which in ("dense", "pruned"))
    for name in dense | pruned:
        if name != metric.name:
            rows.append([str(name), *(number(values.get(name)) for values in (dense, pruned)), ""])
    for name, found in (summary.evaluation.get("divergence") or {}).items():
        ends = " to ".join(map(number, found["interval"]))
        label = f"divergence from the dense model, {DIVERGENCES.get(name, name)}, nats"
        rows.append([label, NOTHING, f"{number(found['value'])} ({ends})", ""])
    for key, label in SIZES.items():
        before, after = (summary.model.get(f"{key}_{when}") for when in ("before", "after"))
        if before is not None and after is not None:
            rows.append([label, f"{before:,}", f"{after:,}", size_change(before, after)])
    for timing in summary.speed:
        label = f"ms, {timing.setting} at batch {timing.batch} x {timing.length}"
        rows.append([label, f"{timing.ms_before:.2f}", f"{timing.ms_after:.2f}", timing.words])
    return TextTable(("", "before", "after", "change"), rows, words=("", "change"))


def _amount(heads: Any) -> str | None:
    return f"{heads:.1%}" if isinstance(heads, float) else None if heads is None else str(heads)


def _grouping(plan: PruningPlan) -> str | None:
    """Say how heads were grouped, if they were."""
    how = plan.provenance.get("clustering")
    if not plan.copies or not isinstance(how, Mapping):
        return None
    names = ("grouping", "distance", "representative", "unit", "ward_on", "first_token")
    return ", ".join(f"{name} {how[name]}" for name in names if name in how)


def distillation(run: Mapping[str, Any]) -> str | None:
    """Say how long a model was trained, and what that brought; None if it was not."""
    made = run.get("distillation")
    if not isinstance(made, Mapping):
        return None
    why = {"done": "all steps done", "seconds": "time limit", "patience": "no more improvement"}
    before, after = number(made["before"]), number(made["after"])
    return (
        f"{made['steps']} of {made['planned']} steps in {made['seconds']:.0f} s"
        f" ({why[made['stopped']]}), step {made['best_step']} kept;"
        f" {made['metric']} {before} → {after} on the set that decides when to stop"
    )


def run_facts(summary: RunSummary) -> dict[str, Any]:
    """Return what identifies the run, for its provenance."""
    model, plan, run = summary.model, summary.plan, summary.run
    return {
        "model": model.get("name"),
        "model type": model.get("model_type"),
        "criterion": None if summary.scores is None else summary.scores.criterion,
        "heads to remove": _amount(plan.provenance.get("heads")),
        "heads removed": f"{len(plan.mask.dropped)} of {plan.mask.n_heads}"
        f" ({plan.mask.sparsity:.1%})",
        "action": plan.action,
        "grouping": _grouping(plan),
        "shared key/value heads": plan.gqa,
        **{key: plan.provenance.get(key) for key in ("strategy", "repair", "revision")},
        "chosen by auto": (run.get("decision") or {}).get("said"),
        "distillation": distillation(run),
        "curve evaluated on": run.get("evaluated_on"),
    }


REGAINED = "repair regained"


def removed_table(explanation: Explanation, criteria: Sequence[str] = ()) -> TextTable:
    """List the removed heads in order: what each cost, then what `criteria` say of it.

    A criterion's cell is its score of the dense model and the rank of it, 1 = least important.
    """
    columns: dict[str, Callable[[RemovedHead], str]] = {
        "head": lambda row: str(row.head),
        "step": lambda row: str(row.step),
    }
    if any(row.together > 1 for row in explanation.rows):
        columns["step"] = lambda row: f"{row.step} ({row.together} heads)"
    if any(row.source is not None for row in explanation.rows):
        columns["as"] = lambda row: NOTHING if row.source is None else str(row.source)
    columns["score then"] = lambda row: _value(row.score)
    columns[f"{explanation.metric} change"] = lambda row: (
        signed(row.change) + (f" ({row.change_over} heads)" if row.change_over > 1 else "")
    )
    if explanation.measured:
        columns["KL before"] = lambda row: _value(row.before)
        columns["KL after"] = lambda row: _value(row.after)
        if explanation.repair != "none":
            columns[REGAINED] = lambda row: _value(row.given_back)
    columns |= {title: partial(_score, name) for name, title in short_names(criteria).items()}
    return table_of(explanation.rows, columns)


def _score(criterion: str, row: RemovedHead) -> str:
    if criterion not in row.scores:
        return ""
    return f"{_value(row.scores[criterion])} ({row.ranks.get(criterion, NOTHING)})"


def legend(explanation: Explanation) -> list[str]:
    """Explain the columns of the table, and what is missing."""
    lines = []
    if explanation.chosen_by:
        lines.append(
            f"Score then: by {short_name(explanation.chosen_by)}, when the head was chosen."
        )
    if any(row.change_over > 1 for row in explanation.rows):
        lines.append("A change over several heads counts from the last evaluated step.")
    if explanation.criteria:
        by_loss: dict[str, list[str]] = {}
        for name, loss in explanation.criteria.items():
            by_loss.setdefault(loss or "", []).append(name)
        losses = (f"; {', '.join(by)} by the loss {loss}" for loss, by in by_loss.items() if loss)
        lines.append(
            "Scores are of the dense model; in brackets the rank among its"
            f" {explanation.n_heads} heads, 1 = least important{''.join(losses)}."
        )
    if explanation.measured:
        repaired = (
            f", repaired by {explanation.repair}; {REGAINED}: how much larger it is after the step"
            " without the repair"
        )
        lines.append(
            "KL: divergence from the dense model before and after the step, in nats, on"
            f" {explanation.measured} calibration samples"
            f"{repaired if explanation.repair != 'none' else ''}."
        )
    return [*lines, *(f"Note: {note}." for note in explanation.notes)]


def _value(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.3g}"


def diagnosis_table(found: Diagnosis) -> list[Any]:
    """Return what to print: gradient norms per block and projection, then what to do."""
    columns = {
        "block": lambda row: str(row.block),
        "projection": lambda row: row.projection,
        "smallest": lambda row: f"{row.smallest:.2e}",
        "median": lambda row: f"{row.median:.2e}",
        "largest": lambda row: f"{row.largest:.2e}",
        "zero heads": lambda row: str(row.zero),
    }
    title = f"gradient norms of {found.loss} per head, {found.samples} samples, {found.dtype}"
    shown = found.not_finite[:8]
    more = len(found.not_finite) - len(shown)
    return [
        table_of(found.rows, columns, words=("projection",), title=title, keys=2),
        *(f"not finite: {line}" for line in shown),
        *([f"not finite: and {more} more places"] if more > 0 else []),
        *(f"advice: {line}" for line in found.advice),
    ]
