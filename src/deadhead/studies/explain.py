"""explain: per head that went, what every criterion said, what it cost, what the repair gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from deadhead.criteria import CRITERIA
from deadhead.data.batches import Batch, call, ready, samples_in
from deadhead.data.given import as_batches
from deadhead.errors import ArgumentError, HeadError, ScoreError
from deadhead.losses.answers import logits_of
from deadhead.losses.losses import Loss, divergence_from
from deadhead.models.heads import HeadModel
from deadhead.models.purpose import is_causal_lm
from deadhead.moments import Moments
from deadhead.options.fields import check_arguments
from deadhead.pruning.result import Pruning
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.repair import REPAIRS, Fits, fit, repaired
from deadhead.scoring import ScorerGroup
from deadhead.scoring.passes import PassSettings
from deadhead.scoring.spec import CriterionSpec
from deadhead.studies.explanation import NAN, Explanation, RemovedHead
from deadhead.surgery import applied, masked
from deadhead.types import COPYING, Head, HeadMask, HeadScores, PruningPlan


def cheap_criteria() -> list[str]:
    """List the criteria that share one pass: not trials of many masks, a file, or chance."""
    return [n for n, kind in CRITERIA.items() if kind.in_all and "trials" not in kind.needs]


@check_arguments
def explain(
    model: nn.Module | HeadModel,
    data: Any,
    plan: PruningPlan | Pruning,
    trajectory: Trajectory | None = None,
    tokenizer: Any = None,
    *,
    criteria: Sequence[str] | None = None,
    loss: str | Loss | None = None,
    seed: int = 0,
    scores: HeadScores | None = None,
    samples: int | None = 128,
    moments: Moments | None = None,
    on_work: Callable[[str], None] = lambda what: None,
) -> Explanation:
    """Explain a run: for each removed head its scores, and what removing it cost.

    Args:
        model: the model that was pruned, as it was before; it comes back exactly as it was.
        data: the calibration data of the run, as `prune` takes them.
        plan: what was cut; or the result of `prune`.
        trajectory: the steps of the run; those beyond the plan are left out.
        tokenizer: the model's, where `data` are texts.
        criteria: by which to score the dense model; None: `cheap_criteria`.
        loss: what all gradient criteria differentiate; None: each its own, or `kl` all of them
            where there are no labels for `task`.
        seed: for criteria that draw.
        scores: of the dense model by the run's criterion, if they are there: they are not
            computed again unless `criteria` names them.
        samples: how many to measure divergences on, evenly over the calibration data; None: all;
            0: measure none.
        moments: what the run's repair was fitted from; None: measured with the scores,
            weighted by the gradient of `loss`, or of `kl`.
        on_work: called with the current kind of work, after every batch and step.

    Cost: a forward and a backward pass per loss; then per step one forward pass over `samples`
    and with a repair one more, and the refit of the blocks that lost a head.

    Raises:
        HeadError: plan, trajectory and model do not belong together.
        DataError: `loss` needs labels, and there are none; or there are no samples.

    Example:
        >>> import deadhead
        >>> loaded = deadhead.load_model("bundled:encoder")
        >>> texts = ["a good film"] * 8 + ["a film that i would never call good"] * 8
        >>> given = {"tokenizer": loaded.tokenizer}
        >>> result = deadhead.prune(loaded.model, texts, heads=2, **given)
        >>> len(explain(loaded.model, texts, result, samples=8, **given).rows)
        2
    """
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    if isinstance(plan, Pruning):
        plan, trajectory = plan.plan, plan.trajectory
    elif trajectory is None:
        raise ArgumentError("a plan does not say how it came about; give its trajectory, too")
    steps = _steps_of(view, plan, trajectory)
    names = cheap_criteria() if criteria is None else list(criteria)
    used = bool(names) or samples != 0
    data = as_batches(data, view.model, tokenizer, seed=seed) if used else []
    if scores is not None and criteria is None and scores.criterion in names:
        names.remove(scores.criterion)
    notes = []
    losses = {loss for name in names for loss in CriterionSpec.parse(name).losses}
    labeled = is_causal_lm(view.model) or all("labels" in batch for batch in data)
    if loss is None and "task" in losses and not labeled:
        loss = "kl"
        notes.append("there are no labels: all gradient criteria differentiate kl")
    needed = REPAIRS[plan.repair].needs_moments and samples != 0 and bool(steps)
    needs_moments = needed and moments is None
    names = names if steps else []
    settings = PassSettings(seed, on_batch=lambda: on_work("score"))
    scorers = ScorerGroup(view, data, names, loss=loss, moments=needs_moments, settings=settings)
    found = {} if scores is None else {scores.criterion: scores}
    for name in names:
        try:
            found[name] = scorers.of(name)(view.mask)
        except ScoreError as error:
            notes.append(f"{name} is left out: {error}")
    if needs_moments:
        moments = scorers.moments
    chosen = chosen_samples(data, samples) if steps else []
    refit = partial(fit, view, moments=moments, batches=data)
    measured = divergences(view, chosen, plan, steps, refit, on_work) if chosen else ()
    return Explanation(
        rows=tuple(_rows(steps, trajectory.dense, plan, found, measured)),
        metric=trajectory.metric,
        criteria={name: _loss(s) for name, s in found.items()},
        n_heads=view.mask.n_kept,
        chosen_by="" if scores is None else scores.criterion,
        samples=_count(data) if names else 0,
        measured=_count(chosen),
        repair=plan.repair,
        notes=tuple(notes),
    )


def chosen_samples(batches: Sequence[Batch], samples: int | None) -> list[Batch]:
    """Take `samples` samples evenly over batches, which may be sorted by length; None: all."""
    total = _count(batches)
    if samples is None or samples >= total:
        return list(batches)
    wanted = {i * total // samples for i in range(samples)}
    chosen, first = [], 0
    for batch in batches:
        size = _count([batch])
        rows = [i for i in range(size) if first + i in wanted]
        if rows:
            chosen.append({name: tensor[rows] for name, tensor in batch.items()})
        first += size
    return chosen


def _steps_of(view: HeadModel, plan: PruningPlan, trajectory: Trajectory) -> list[Step]:
    """Return the steps that led to the plan's mask."""
    if view.mask != trajectory.start.mask:
        raise HeadError(
            "the model does not hold the heads that the run began with: it has"
            f" {view.mask.n_kept} of {list(view.mask.counts)}, the run had"
            f" {trajectory.start.mask.n_kept} of {list(trajectory.start.mask.counts)};"
            " give the model as it was before the run"
        )
    steps = [step for step in trajectory.steps if plan.mask <= step.mask]
    if (steps[-1] if steps else trajectory.start).mask != plan.mask:
        raise HeadError(
            "the plan is no step of the trajectory; give the plan and the trajectory of one run"
        )
    return steps


def _rows(
    steps: Sequence[Step],
    metric: float,
    plan: PruningPlan,
    found: Mapping[str, HeadScores],
    measured: Sequence[tuple[float, float]],
) -> Iterator[RemovedHead]:
    ranks = {name: _ranks(scores) for name, scores in found.items()}
    before, over = 0.0, 0
    for number, step in enumerate(steps):
        over += len(step.dropped)
        evaluated = not math.isnan(step.metric)
        after, unrepaired = measured[number] if measured else (NAN, NAN)
        of_step = RemovedHead(
            Head(0, 0),
            number + 1,
            len(step.dropped),
            change=step.metric - metric,
            change_over=over if evaluated else 0,
            before=before if measured else NAN,
            after=after,
            unrepaired=unrepaired,
        )
        then = step.scores or (NAN,) * len(step.dropped)
        for head, score in zip(step.dropped, then, strict=True):
            yield replace(
                of_step,
                head=head,
                source=plan.copies.get(head),
                score=score,
                scores={name: scores[head] for name, scores in found.items()},
                ranks={name: places[head] for name, places in ranks.items() if head in places},
            )
        before = after
        if evaluated:
            metric, over = step.metric, 0


def _ranks(scores: HeadScores) -> dict[Head, int]:
    return {head: place for place, head in enumerate(scores.ranking(), start=1)}


def _loss(scores: HeadScores) -> str | None:
    """Return the loss that scores differentiated; of a combination, the losses of its parts."""
    made = [scores.provenance, *scores.provenance.values()]
    named = [str(p["loss"]) for p in made if isinstance(p, Mapping) and "loss" in p]
    return ", ".join(dict.fromkeys(named)) or None


def _count(batches: Iterable[Batch]) -> int:
    return sum(samples_in(batch) for batch in batches)


HELD = 2**27  # numbers of the dense model's predictions that are held at a time

Judged = Sequence[tuple[Batch, Loss]]


def divergences(
    view: HeadModel,
    batches: Iterable[Batch],
    plan: PruningPlan,
    steps: Sequence[Step],
    refit: Callable[[PruningPlan], Fits],
    on_work: Callable[[str], None] = lambda what: None,
) -> list[tuple[float, float]]:
    """Measure the divergence from the dense model after every step: (repaired, not repaired).

    Without a repair the two are the same. Steps are masked, or copied as the plan says. `refit`
    returns the fits of a plan, for the blocks that lose a head.

    Unit: nats, mean over samples; see `divergence_from`.
    Cost: one forward pass, then per step one, and with a repair two, and a refit of the blocks that
    lost a head (of all that ever did, by a repair that runs data); refits again per `HELD`
    predictions of the dense model.
    """
    totals = [[0.0, 0.0] for _ in steps]
    samples = 0
    alone = REPAIRS[plan.repair].fit_plan is None  # a block's fit knows nothing of other blocks
    with view.at_rest(), torch.no_grad():
        for judged in _judged(view, batches):
            samples += sum(samples_in(batch) for batch, _ in judged)
            fits: Fits = {}
            before = view.mask
            for number, step in enumerate(steps):
                at = _plan_at(plan, step.mask)
                if plan.repair != "none":
                    since = before if alone else view.mask
                    fits = {**fits, **refit(_losing_since(since, at, view.mask))}
                before = step.mask
                copied = plan.action in COPYING
                unrepaired = replace(at, repair="none")
                alone_masked = applied(view, unrepaired) if copied else masked(view, at.mask)
                bare = _total(alone_masked, view, judged)
                kept = _total(repaired(view, at.mask, fits), view, judged) if fits else bare
                totals[number][0] += kept
                totals[number][1] += bare
                on_work(f"measure, step {number + 1} of {len(steps)}")
    return [(kept / samples, bare / samples) for kept, bare in totals]


def _judged(view: HeadModel, batches: Iterable[Batch]) -> Iterator[Judged]:
    """Yield batches with the divergence from what the dense model says of them, some at a time."""
    held: list[tuple[Batch, Loss]] = []
    size = 0
    for batch in ready(view.model, batches):
        dense = call(view.model, batch)
        held.append((batch, divergence_from(view.model, dense, batch)))
        size += logits_of(dense).numel()
        if size >= HELD:
            yield held
            held, size = [], 0
    if held:
        yield held


def _plan_at(plan: PruningPlan, mask: HeadMask) -> PruningPlan:
    copies = {head: source for head, source in plan.copies.items() if not mask.keeps(head)}
    return replace(plan, mask=mask, copies=copies)


def _losing_since(before: HeadMask, plan: PruningPlan, dense: HeadMask) -> PruningPlan:
    """Return the plan for the blocks alone that differ from `before`."""
    rows = [
        whole if row == old else row
        for row, old, whole in zip(plan.mask.kept, before.kept, dense.kept, strict=True)
    ]
    return replace(plan, mask=HeadMask(tuple(rows)))


def _total(changed: AbstractContextManager[nn.Module], view: HeadModel, judged: Judged) -> float:
    with changed:
        return sum(
            float(loss(view.model, call(view.model, batch), batch).cpu().double().sum())
            for batch, loss in judged
        )
