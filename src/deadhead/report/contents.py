"""What the page and the model card both show of a run, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deadhead.report.summary import RunSummary
from deadhead.report.tables import Rows
from deadhead.report.wording import NOTHING, change, number, retained
from deadhead.types import PruningPlan


def cost_rows(summary: RunSummary) -> Rows:
    """List every number that was taken both before and after the cut."""
    metric, model = summary.trajectory.metric, summary.model
    rows = [[metric, number(summary.before), number(summary.after), retained(summary)]]
    ends = [summary.interval(which) for which in ("dense", "pruned")]
    if any(ends):
        cells = [f"{number(e[0])} to {number(e[1])}" if e else NOTHING for e in ends]
        rows.append([f"{metric}, 95% interval", *cells, ""])
    dense, pruned = (summary.evaluation.get(which) or {} for which in ("dense", "pruned"))
    for name in dense | pruned:
        if name != metric:
            rows.append([str(name), *(number(values.get(name)) for values in (dense, pruned)), ""])
    for label, key in (
        ("parameters", "parameters"),
        ("KV cache bytes per token", "kv_bytes_per_token"),
    ):
        before, after = model.get(f"{key}_before"), model.get(f"{key}_after")
        if before is not None and after is not None:
            rows.append([label, f"{before:,}", f"{after:,}", change(before, after)])
    for timing in summary.speed:
        label = f"ms, {timing.setting} at batch {timing.batch} x {timing.length}"
        cells = [f"{timing.ms_before:.2f}", f"{timing.ms_after:.2f}", f"{timing.speedup:.2f}x"]
        rows.append([label, *cells])
    return Rows(("", "before", "after", "change"), rows, words=("", "change"))


def data_rows(data: Any) -> Rows:
    """List the data sets with whatever is known of each; values may be mappings or plain."""
    if not isinstance(data, Mapping):
        return Rows(("data",), [[str(data)]], words=("data",))
    named = {
        str(role): value if isinstance(value, Mapping) else {"fingerprint": value}
        for role, value in data.items()
    }
    keys = list(dict.fromkeys(str(key) for value in named.values() for key in value))
    rows = [
        [role, *(str(value.get(key, NOTHING)) for key in keys)] for role, value in named.items()
    ]
    return Rows(("data", *keys), rows, words=("data", *keys))


def _asked(heads: Any) -> str | None:
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
    how = {"done": "all that was asked", "seconds": "the time was up", "patience": "no more gain"}
    before, after = number(made["before"]), number(made["after"])
    return (
        f"{made['steps']} of {made['planned']} steps in {made['seconds']:.0f} s"
        f" ({how[made['stopped']]}), step {made['best_step']} kept;"
        f" {made['metric']} {before} → {after} on what stops it"
    )


def facts_of(summary: RunSummary) -> list[tuple[str, str]]:
    """Return (name, value) of what else identifies the run; what is unknown is left out."""
    model, plan, run = summary.model, summary.plan, summary.run
    facts: dict[str, Any] = {
        "model": model.get("name"),
        "model type": model.get("model_type"),
        "criterion": None if summary.scores is None else summary.scores.criterion,
        "heads asked for": _asked(plan.provenance.get("heads")),
        "heads gone": f"{len(plan.mask.dropped)} of {plan.mask.n_heads} ({plan.mask.sparsity:.1%})",
        "action": plan.action,
        "grouping": _grouping(plan),
        "shared key/value heads": plan.gqa,
        **{key: plan.provenance.get(key) for key in ("strategy", "repair", "revision")},
        "chosen by auto": (run.get("decision") or {}).get("said"),
        "distillation": distillation(run),
        **{key: run.get(key) for key in ("seed", "date", "machine")},
        "curve evaluated on": run.get("evaluated_on"),
        "seconds": number(run.get("seconds")) if run.get("seconds") is not None else None,
    }
    versions = run.get("versions") or {}
    if isinstance(versions, Mapping):
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    else:
        facts["versions"] = versions
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]
