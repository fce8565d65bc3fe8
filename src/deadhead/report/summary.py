"""One run as plain values: what a report is made of, its outcome, and what to be wary of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deadhead.display import NOTHING, Brief, number, size_change
from deadhead.errors import FileFormatError
from deadhead.measure.latency import SpeedRow
from deadhead.pruning.trajectory import Trajectory
from deadhead.studies.baseline import RandomBaseline
from deadhead.studies.explanation import Explanation
from deadhead.types import HeadScores, PruningPlan


@dataclass(frozen=True, repr=False)
class RunSummary(Brief):
    """Everything that a report or a model card says about one run.

    Every field after `plan` may be empty: a report then says less, and says that it does.

    Attributes:
        scores: of the dense model; None if no choice looked at any.
        model: `name`, `hub_id`, `model_type`, `parameters_before`, `parameters_after`,
            `kv_bytes_per_token_before`, `kv_bytes_per_token_after` (None for encoders),
            `auto_class` (`AutoModelForCausalLM`; for the card) and `needs_deadhead` to load it.
        evaluation: `dense` and `pruned` (each `{metric: value}`), `interval` (`{"dense": [low,
            high], "pruned": [low, high]}` of the trajectory's metric, 95%), `chance`, and
            `divergence` (`{"test" or "own": {"value": nats, "interval": [low, high], "texts": n}}`)
            of the cut model from the dense one, on test data and on text of its own making.
        run: `command`, `versions`, `data` (`{role: {"fingerprint": ..., "size": ...}}`), `notes`,
            `seed`, `date`, `seconds`, and `evaluated_on`: the set of the trajectory.
    """

    title: str
    trajectory: Trajectory
    scores: HeadScores | None
    plan: PruningPlan
    model: dict[str, Any] = field(default_factory=dict)
    speed: list[SpeedRow] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    random: RandomBaseline | None = None
    run: dict[str, Any] = field(default_factory=dict)
    explanation: Explanation | None = None

    @property
    def chosen_by(self) -> str:
        """What chose the heads: the criterion, or without scores the strategy."""
        if self.scores is not None:
            return self.scores.criterion
        return str(self.plan.provenance.get("strategy", "plan"))

    @property
    def before(self) -> float:
        """The metric of the dense model; NaN if it was not evaluated."""
        return self._evaluated("dense", self.trajectory.dense)

    @property
    def after(self) -> float:
        """The metric of the model as cut; NaN if it was not evaluated.

        Without an evaluation of its own this is the trajectory's value for the plan's mask.
        """
        return self._evaluated("pruned", self.on_curve)

    @property
    def evaluated_on(self) -> str:
        """The set that the trajectory was measured on; everything else is on test."""
        return str(self.run.get("evaluated_on") or "test")

    @property
    def on_curve(self) -> float:
        """The trajectory's metric for the plan's mask; NaN if no evaluated step has that mask."""
        return next((s.metric for s in self.trajectory if s.mask == self.plan.mask), float("nan"))

    def interval(self, which: str) -> tuple[float, float] | None:
        """Return the 95% interval of `dense` or `pruned`, if there is one."""
        ends = (self.evaluation.get("interval") or {}).get(which)
        return (_known(ends[0]), _known(ends[1])) if ends else None

    def _evaluated(self, which: str, otherwise: float) -> float:
        value = (self.evaluation.get(which) or {}).get(self.trajectory.metric)
        return otherwise if value is None else float(value)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back; NaN becomes null."""
        return {
            "title": self.title,
            "trajectory": self.trajectory.to_json(),
            "scores": None if self.scores is None else self.scores.to_json(),
            "plan": self.plan.to_json(),
            "model": plain(self.model),
            "speed": [plain(row.to_json()) for row in self.speed],
            "evaluation": plain(self.evaluation),
            "random": plain(self.random.to_json()) if self.random else None,
            "run": plain(self.run),
            "explanation": None if self.explanation is None else self.explanation.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSummary:
        """Read what `to_json` returned."""
        try:
            explanation = data.get("explanation")  # older runs have none
            return cls(
                title=data["title"],
                trajectory=Trajectory.from_json(data["trajectory"]),
                scores=None if data["scores"] is None else HeadScores.from_json(data["scores"]),
                plan=PruningPlan.from_json(data["plan"]),
                model=dict(data["model"]),
                speed=[SpeedRow(**{k: _known(v) for k, v in row.items()}) for row in data["speed"]],
                evaluation=dict(data["evaluation"]),
                random=RandomBaseline.from_json(data["random"]) if data["random"] else None,
                run=dict(data["run"]),
                explanation=Explanation.from_json(explanation) if explanation else None,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FileFormatError(
                f"this is not a run summary ({error!r}); 'deadhead prune' writes one"
            ) from error


def _known(value: Any) -> Any:
    """Return a value of a JSON file, where null was NaN."""
    return float("nan") if value is None else value


def plain(value: Any) -> Any:
    """Turn numpy scalars, tuples and paths into JSON values; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


DONE = {
    "remove": "removed",
    "mask": "masked",
    "duplicate": "replaced by copies of kept ones",
    "fold": "folded into kept ones",
}


def retained(summary: RunSummary) -> str:
    """Say the metric relative to the dense model: `2.9% worse than dense`; a dash if unknown."""
    return summary.trajectory.judged_by.change(summary.before, summary.after)


def summary_phrase(summary: RunSummary) -> str:
    """Say what was done to how many heads: `36 of 72 heads removed (50%)`.

    Counted are the heads that the model had at the start, which may have been cut before.
    """
    plan, total = summary.plan, summary.trajectory.start.mask.n_kept
    removed = total - plan.mask.n_kept
    share = f"({removed / total:.0%})" if total else ""
    return f"{removed} of {total} heads {DONE[plan.action]} {share}".rstrip()


def outcome(summary: RunSummary) -> str:
    """Say in one sentence what was cut, what it cost and what it gained."""
    metric, model = summary.trajectory.metric, summary.model
    parts = [f"{metric} {number(summary.before)} → {number(summary.after)}"]
    if math.isnan(summary.before) and math.isnan(summary.after):
        parts = [f"{metric} not evaluated"]
    elif (kept := retained(summary)) != NOTHING:
        parts[0] += f" ({kept})"
    size = size_change(model.get("parameters_before"), model.get("parameters_after"))
    if size != NOTHING:
        parts.append("as many parameters" if size == "the same" else f"{size} parameters")
    cache = size_change(
        model.get("kv_bytes_per_token_before"), model.get("kv_bytes_per_token_after")
    )
    if cache not in (NOTHING, "the same"):
        parts.append(f"{cache} KV cache bytes per token")
    parts.append(_speed(summary))
    return f"{summary_phrase(summary)}: {', '.join(parts)}."


def _speed(summary: RunSummary) -> str:
    """Say the first timing: `1.06x faster at batch 1 x 128 (forward, ceiling 1.07x)`."""
    if not summary.speed:
        return "speed not measured"
    row = summary.speed[0]
    said = "no speedup beyond noise" if row.verdict == "noise" else row.words
    where = f"batch {row.batch} x {row.length} ({row.setting}, ceiling {row.ceiling:.2f}x)"
    return f"{said} at {where}"


def caveats(summary: RunSummary) -> list[str]:
    """List what to know before relying on the numbers, negative results first."""
    return [
        *_random_caveats(summary),
        *_metric_caveats(summary),
        *_speed_caveats(summary),
        *_size_caveats(summary),
        *_data_caveats(summary),
    ]


def _random_caveats(summary: RunSummary) -> Iterator[str]:
    sparsity = summary.plan.mask.sparsity
    if summary.random is None:
        yield "No random baseline: these numbers do not show that the method beats random heads."
        return
    if summary.random.n_draws < 20:
        yield f"The random baseline has {summary.random.n_draws} draws; use 20 or more."
    if summary.plan.mask == summary.trajectory.start.mask:
        return
    # the baseline is not repaired, so the fair comparison is with the curve, not the final model;
    # but it is on test
    value, which = summary.on_curve, "on the curve"
    if math.isnan(value) or summary.evaluated_on != "test":
        value, which = summary.after, "of the cut model"
    mean, low, high = summary.random.at(sparsity=sparsity)
    metric = summary.trajectory.judged_by
    worst, best = (low, high) if metric.greater_is_better else (high, low)
    said = f"{metric.name} {number(value)} {which}; random heads give {number(mean)} on average"
    if math.isnan(mean):
        yield f"The random baseline does not reach this many heads ({sparsity:.0%})."
    elif metric.worse_by(worst, value) > 0:
        yield f"Worse than random: {said}, and {number(worst)} at worst (95% interval)."
    elif metric.worse_by(mean, value) > 0:
        yield f"Worse than the random average: {said}; the value is inside its 95% interval."
    elif metric.worse_by(best, value) >= 0:
        yield (
            f"Not distinguishable from random: {said}, with 95% of draws between"
            f" {number(low)} and {number(high)}."
        )


def _metric_caveats(summary: RunSummary) -> Iterator[str]:
    judged, name = summary.trajectory.judged_by, summary.trajectory.metric
    dense, pruned = summary.interval("dense"), summary.interval("pruned")
    if math.isnan(summary.after):
        yield f"The cut model was not evaluated: its {name} is unknown."
    elif dense and pruned and summary.before != summary.after:
        if max(dense[0], pruned[0]) <= min(dense[1], pruned[1]):
            yield f"The 95% intervals of {name} overlap: more examples may change the difference."
        elif judged.worse_by(summary.before, summary.after) > 0:
            yield f"Worse: {name} is outside the dense model's 95% interval."
    elif not (dense and pruned):
        yield f"No interval: how much {name} varies between samples of examples is unknown."
    chance = summary.evaluation.get("chance")
    if chance is not None and judged.worse_by(chance, summary.after) >= 0:
        yield f"Useless: {name} is no better than guessing ({number(chance)})."
    if summary.evaluated_on != "test":
        yield (
            f"The curve was measured on {summary.evaluated_on}, which decided where to stop, so its"
            " values are optimistic. Every other number is on test."
        )
    elif not math.isnan(summary.on_curve) and abs(summary.on_curve - summary.after) > 1e-9:
        yield (
            f"The curve shows {name} {number(summary.on_curve)} for this mask, the evaluation"
            f" {number(summary.after)}: {_between(summary)}."
        )


def _between(summary: RunSummary) -> str:
    """Say why the curve and the evaluation differ."""
    if summary.run.get("distillation") is not None:
        return "the model was trained in between"
    return "the data differ, or a repair was made in between"


def _speed_caveats(summary: RunSummary) -> Iterator[str]:
    if not summary.speed:
        yield "Speed was not measured."
    for row in summary.speed:
        name = f"{row.setting} at batch {row.batch} x {row.length}"
        measured = f"measured {row.speedup:.2f}x, quartiles {row.low:.2f}x to {row.high:.2f}x"
        if row.speedup > row.ceiling:
            yield (
                f"Noise: {name} {measured}, which is above its ceiling of {row.ceiling:.2f}x."
                " The ceiling counts parameters only: with long inputs attention itself can gain"
                " more."
            )
        elif row.verdict == "noise":
            yield f"No speedup shown: {name} {measured}, which includes 1x."
        elif row.verdict == "slower":
            yield f"Slower: {name} takes {1 / row.speedup:.2f} times as long as before."


def _size_caveats(summary: RunSummary) -> Iterator[str]:
    model, plan = summary.model, summary.plan
    before, after = model.get("parameters_before"), model.get("parameters_after")
    if before and after is not None and after >= before:
        why = {
            "mask": ": masked heads are still computed",
            "duplicate": ": copies are still computed (fold gives the same logits without them)",
        }.get(plan.action, "")
        yield f"The model did not become smaller{why}."
    cache = model.get("kv_bytes_per_token_before"), model.get("kv_bytes_per_token_after")
    if cache[0] and cache[1] is not None and cache[1] >= cache[0]:
        size = "larger" if cache[1] > cache[0] else "as large as before"
        yield f"The KV cache is {size}: it shrinks only when whole key/value heads are removed."


def _data_caveats(summary: RunSummary) -> Iterator[str]:
    data = summary.run.get("data") or {}
    roles: dict[str, list[str]] = {}
    for role, value in data.items() if isinstance(data, dict) else ():
        fingerprint = value.get("fingerprint") if isinstance(value, dict) else value
        if fingerprint:
            roles.setdefault(str(fingerprint), []).append(str(role))
    for shared in roles.values():
        if len(shared) > 1 and set(shared) != {"calibration", "training"}:  # neither judges
            yield f"Same data for {' and '.join(shared)}: the metric is not a test on unseen data."
    yield from (f"Data: {note}." for note in summary.run.get("notes") or ())
