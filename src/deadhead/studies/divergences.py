"""How far a model moves from the dense one, step by step, with and without its repair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import nn

from deadhead.data.inputs import Batch, call, ready, samples_in
from deadhead.losses.answers import logits_of
from deadhead.losses.divergence import divergence_from
from deadhead.losses.losses import Loss
from deadhead.models.heads import HeadModel
from deadhead.pruning.trajectory import Step
from deadhead.repair import REPAIRS, Fits, repaired
from deadhead.surgery import applied, masked
from deadhead.types import COPYING, HeadMask, PruningPlan

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
                bare = _total(_unrepaired(view, at), view, judged)
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


def _unrepaired(view: HeadModel, plan: PruningPlan) -> AbstractContextManager[nn.Module]:
    if plan.action in COPYING:
        return applied(view, replace(plan, repair="none"))
    return masked(view, plan.mask)


def _total(changed: AbstractContextManager[nn.Module], view: HeadModel, judged: Judged) -> float:
    with changed:
        return sum(
            float(loss(view.model, call(view.model, batch), batch).cpu().double().sum())
            for batch, loss in judged
        )
