"""What the page and the model card both show of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deadhead.display.words import NOTHING, number, size_change
from deadhead.report.summary import RunSummary
from deadhead.report.text_table import TextTable
from deadhead.report.wording import retained
from deadhead.types import PruningPlan

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
    if plan.provenance.get("strategy") != "clusters" or not isinstance(how, Mapping):
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
