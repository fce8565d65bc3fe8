"""How results are said: numbers, the outcome in one sentence, and what to be wary of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from deadhead.measure.latency import SpeedRow
from deadhead.report.summary import RunSummary

NOTHING = "—"  # there is no such value
DEEDS = {
    "remove": "removed",
    "mask": "masked",
    "duplicate": "made copies of kept ones",
    "fold": "folded into kept ones",
}


def number(value: float | None) -> str:
    """Print a metric: three decimals for small values, fewer for large ones, a dash for none."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0 or 1e-3 <= abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:,.1f}" if 10 <= abs(value) < 1e7 else f"{value:.2e}"


def signed(value: float | None) -> str:
    """Print a difference of two metrics, with its sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:+z.3f}" if abs(value) < 10 else f"{value:+,.1f}"


def change(before: Any, after: Any) -> str:
    """Print how much smaller or larger a size became: `8% fewer`, `the same`."""
    if not before or after is None:
        return NOTHING
    fraction = after / before - 1
    if fraction == 0:
        return "the same"
    digits = 0 if abs(fraction) >= 0.0995 else 1
    return f"{abs(fraction):.{digits}%} {'fewer' if fraction < 0 else 'more'}"


def retained(summary: RunSummary) -> str:
    """Print the metric relative to the dense model: `97.1% of dense`; a dash if unknown."""
    before, after = summary.before, summary.after
    if not before > 0 or math.isnan(after):
        return NOTHING
    return f"{after / before:.1%} of dense"


def deed(summary: RunSummary) -> str:
    """Print what was done to how many heads: `36 of 72 heads removed (50%)`.

    Counted are the heads that the model had at the start, which may have been cut before.
    """
    plan, total = summary.plan, summary.trajectory.start.mask.n_kept
    gone = total - plan.mask.n_kept
    share = f"({gone / total:.0%})" if total else ""
    return f"{gone} of {total} heads {DEEDS[plan.action]} {share}".rstrip()


def speed_words(row: SpeedRow) -> str:
    """Print one timing: `1.06x measured at batch 1 x 128 (forward, ceiling 1.07x)`."""
    place = f"batch {row.batch} x {row.length} ({row.setting}, ceiling {row.ceiling:.2f}x)"
    verdict = ""
    if row.low <= 1 <= row.high:
        verdict = ", not distinguishable from 1x"
    elif row.speedup < 1:
        verdict = ", slower than before"
    return f"{row.speedup:.2f}x measured at {place}{verdict}"


def outcome(summary: RunSummary) -> str:
    """Say in one sentence what was cut, what it cost and what it gained."""
    metric, model = summary.trajectory.metric, summary.model
    parts = [f"{metric} {number(summary.before)} → {number(summary.after)}"]
    if math.isnan(summary.before) and math.isnan(summary.after):
        parts = [f"{metric} not evaluated"]
    elif (kept := retained(summary)) != NOTHING:
        parts[0] += f" ({kept})"
    size = change(model.get("parameters_before"), model.get("parameters_after"))
    if size != NOTHING:
        parts.append("as many parameters" if size == "the same" else f"{size} parameters")
    cache = change(model.get("kv_bytes_per_token_before"), model.get("kv_bytes_per_token_after"))
    if cache not in (NOTHING, "the same"):
        parts.append(f"{cache} KV cache bytes per token")
    parts.append(speed_words(summary.speed[0]) if summary.speed else "speed not measured")
    return f"{deed(summary)}: {', '.join(parts)}."


def caveats(summary: RunSummary) -> list[str]:
    """List what a careful reader should hold against the numbers, negative results first."""
    return [
        *_random_caveats(summary),
        *_metric_caveats(summary),
        *_speed_caveats(summary),
        *_size_caveats(summary),
        *_data_caveats(summary),
    ]


def _random_caveats(summary: RunSummary) -> Iterator[str]:
    metric, sparsity = summary.trajectory.metric, summary.plan.mask.sparsity
    if summary.random is None:
        yield "No random baseline: these numbers do not show that the scores beat random choice."
        return
    if summary.random.n_draws < 20:
        yield f"The random baseline has {summary.random.n_draws} draws; 20 or more are advised."
    if summary.plan.mask == summary.trajectory.start.mask:
        return
    # the baseline is not repaired, so the fair comparison is with the curve, not the final model;
    # but it is on test
    value, which = summary.on_curve, "on the curve"
    if math.isnan(value) or summary.evaluated_on != "test":
        value, which = summary.after, "of the cut model"
    mean, low, high = summary.random.at(sparsity=sparsity)
    sign = 1 if summary.trajectory.greater_is_better else -1
    worst, best = (low, high) if sign > 0 else (high, low)
    said = f"{metric} {number(value)} {which}; random heads give {number(mean)} on average"
    if math.isnan(mean):
        yield f"The random baseline does not reach this many heads ({sparsity:.0%})."
    elif sign * value < sign * worst:
        yield f"Worse than random: {said}, and at worst {number(worst)} (95% interval)."
    elif sign * value < sign * mean:
        yield f"Below the random baseline: {said}, though inside its 95% interval."
    elif sign * value <= sign * best:
        yield (
            f"Not distinguishable from random: {said}, with 95% of draws between"
            f" {number(low)} and {number(high)}."
        )


def _metric_caveats(summary: RunSummary) -> Iterator[str]:
    metric, sign = summary.trajectory.metric, 1 if summary.trajectory.greater_is_better else -1
    dense, pruned = summary.interval("dense"), summary.interval("pruned")
    if math.isnan(summary.after):
        yield f"The cut model was not evaluated: its {metric} is not known."
    elif dense and pruned and summary.before != summary.after:
        if max(dense[0], pruned[0]) <= min(dense[1], pruned[1]):
            yield f"The 95% intervals of {metric} overlap: more examples may change the difference."
        elif sign * summary.after < sign * summary.before:
            yield f"Worse: {metric} is outside the dense model's 95% interval."
    elif not (dense and pruned):
        yield f"No interval: how far {metric} would vary on other examples is not known."
    chance = summary.evaluation.get("chance")
    if chance is not None and sign * summary.after <= sign * chance:
        yield f"Useless: {metric} is no better than guessing ({number(chance)})."
    if summary.evaluated_on != "test":
        yield (
            f"The curve was measured on {summary.evaluated_on}, which decided where to stop: its"
            " values are too good. Every other number is on test."
        )
    elif not math.isnan(summary.on_curve) and abs(summary.on_curve - summary.after) > 1e-9:
        yield (
            f"The curve has {metric} {number(summary.on_curve)} for this mask and the evaluation"
            f" {number(summary.after)}: {_between(summary)}."
        )


def _between(summary: RunSummary) -> str:
    """Say what lies between the curve and the evaluation."""
    trained = summary.run.get("distillation")
    return "other data, or a repair in between" if trained is None else "it was trained in between"


def _speed_caveats(summary: RunSummary) -> Iterator[str]:
    if not summary.speed:
        yield "Speed was not measured."
    for row in summary.speed:
        name = f"{row.setting} at batch {row.batch} x {row.length}"
        if row.high < 1:
            yield f"Slower: {name} takes {1 / row.speedup:.2f} times as long as before."
        elif row.low <= 1:
            yield (
                f"No speedup shown: for {name} the quartiles {row.low:.2f}x to {row.high:.2f}x"
                " include 1."
            )
        if row.speedup > row.ceiling:
            yield (
                f"Above its ceiling: {name} is {row.speedup:.2f}x over {row.ceiling:.2f}x. The"
                " ceiling counts parameters only; attention's own work shrinks too, and a busy"
                " machine adds noise."
            )


def _size_caveats(summary: RunSummary) -> Iterator[str]:
    model, plan = summary.model, summary.plan
    before, after = model.get("parameters_before"), model.get("parameters_after")
    if before and after is not None and after >= before:
        why = {
            "mask": ": masked heads are still computed",
            "duplicate": ": copies are still computed (action fold gives the same logits without)",
        }.get(plan.action, "")
        yield f"The model did not become smaller{why}."
    cache = model.get("kv_bytes_per_token_before"), model.get("kv_bytes_per_token_after")
    if cache[0] and cache[1] is not None and cache[1] >= cache[0]:
        size = "larger" if cache[1] > cache[0] else "as large as before"
        yield f"The KV cache is {size}: it shrinks only when whole key/value heads go."


def _data_caveats(summary: RunSummary) -> Iterator[str]:
    data = summary.run.get("data") or {}
    roles: dict[str, list[str]] = {}
    for role, value in data.items() if isinstance(data, dict) else ():
        print_ = value.get("fingerprint") if isinstance(value, dict) else value
        if print_:
            roles.setdefault(str(print_), []).append(str(role))
    for shared in roles.values():
        if len(shared) > 1 and set(shared) != {"calibration", "training"}:  # neither judges
            yield f"Same data for {' and '.join(shared)}: the metric is not a test on unseen data."
    yield from (f"Data: {note}." for note in summary.run.get("notes") or ())
