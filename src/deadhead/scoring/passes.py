"""The passes that criteria share: one forward, one backward per loss, for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deadhead.criteria.base import Observer, ObservesTrials, SumsOverBatch, UsesMoments
from deadhead.data.batches import Batch, call, ready, samples_in, valid_tokens
from deadhead.data.inputs import valid_within
from deadhead.display import Brief
from deadhead.errors import DataError, ScoreError, not_finite
from deadhead.losses.losses import Loss, logit_norm, loss_named
from deadhead.measure import Timer
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments, MomentSums
from deadhead.scoring.tape import Tape, gradients_of, observation_of, on_tape
from deadhead.surgery.mask import masked
from deadhead.types import HeadMask


@dataclass(frozen=True)
class Backward:
    """One backward pass: a loss, how it is summed over the batch, and who looks at the result."""

    loss: Loss
    reduction: str
    criteria: Sequence[Any]


def run_batch(
    view: HeadModel,
    batch: Batch,
    number: int,
    *,
    backwards: Sequence[Backward] = (),
    watchers: Sequence[Any] = (),
    mask: HeadMask | None = None,
) -> Tape:
    """Run one batch and show every criterion what it asked for; return the tape of the pass.

    `watchers` look at the forward pass (maps, head outputs), the criteria of `backwards` at
    gradients; maps of heads that `mask` drops are shown as zeros. Parameters get no gradients.
    The model is expected to be at rest.

    Cost: one forward pass, and one backward pass per entry of `backwards`.

    Raises:
        ScoreError: the loss is not finite (says where it began), or has no gradient.
    """
    if backwards and torch.is_inference_mode_enabled():
        raise ScoreError(
            "torch.inference_mode() lets no gradient through; score outside of it, or choose a"
            " criterion without gradients (attention_entropy, magnitude)"
        )
    valid, samples = valid_tokens(batch), samples_in(batch)
    needs = frozenset[str]().union(*(c.needs for b in backwards for c in b.criteria))
    tape = Tape()
    with ExitStack() as stack:
        of_maps = [c for c in watchers if "maps" in c.needs]
        if of_maps:
            from deadhead.models.maps import hook_maps  # most criteria need none

            stack.enter_context(hook_maps(view, _show_maps(view, of_maps, batch, number, mask)))
        of_heads = [c for c in watchers if "heads" in c.needs]
        for criterion in of_heads:
            if isinstance(criterion, MomentSums):
                criterion.begin(samples, number)

        def show_heads(block: int, z: Tensor) -> None:
            tape.ran.add(block)
            real = valid_at(view, block, batch, (len(z), z.shape[1])) if of_heads else valid
            for criterion in of_heads:
                criterion.observe_heads(block, z.detach(), real, number)

        if of_heads or len(view.records) > 1:
            stack.enter_context(view.hook_heads(show_heads))
        if backwards:
            stack.enter_context(on_tape(view, tape, samples, needs))
        stack.enter_context(torch.set_grad_enabled(bool(backwards)))
        outputs = call(view.model, batch)
        for backward in backwards:
            per_sample = backward.loss(view.model, outputs, batch)
            check_shape(per_sample, samples)
            if not torch.isfinite(per_sample).all():
                raise not_finite_loss(view, batch, number)
            retain = backward is not backwards[-1]
            gradients = gradients_of(_total(per_sample, backward), tape, retain=retain)
            seen = observation_of(view, gradients, tape, needs, (number, samples, valid))
            for criterion in backward.criteria:
                criterion.observe(seen)
    return tape


def valid_at(view: HeadModel, block: int, batch: Batch, shape: tuple[int, int]) -> Tensor:
    """Return which of the (rows, tokens) that a block sees are real."""
    return valid_within(view.model, batch, shape, view.blocks[block].record.stack)


def _show_maps(
    view: HeadModel, watchers: Sequence[Any], batch: Batch, number: int, mask: HeadMask | None
) -> Callable[..., None]:
    off = [
        torch.tensor([mask is not None and not mask.kept[b][i] for i in block.original.heads])
        for b, block in enumerate(view.blocks)
    ]

    def fn(block: int, rows: slice, maps: Tensor, visible: Tensor | None) -> None:
        if off[block].any():
            maps = maps.masked_fill(off[block].to(maps.device)[:, None, None], 0)
        queries, keys = maps.shape[-2:]
        valid = valid_at(view, block, batch, (len(valid_tokens(batch)), queries))
        if len(valid) < rows.start + len(maps):  # windows of an image: nothing is padding
            valid = valid.new_ones(rows.start + len(maps), queries)
        if visible is None and queries != keys:
            visible = valid.new_ones(1, 1, queries, keys)
        for criterion in watchers:
            criterion.observe_maps(block, rows, maps, visible, valid, number)

    return fn


def check_shape(per_sample: Any, samples: int) -> None:
    """Refuse a loss that is not one number per sample."""
    shape = list(per_sample.shape) if isinstance(per_sample, Tensor) else type(per_sample).__name__
    if shape != [samples]:
        raise ScoreError(
            f"the loss returned {shape}, and has to return a tensor of one number per sample,"
            f" [{samples}]; do not average over the batch"
        )


def not_finite_loss(view: HeadModel, batch: Batch, number: int) -> ScoreError:
    """Say that a batch's loss is not finite, and where it began."""
    from deadhead.scoring.diagnose import where_not_finite

    where = where_not_finite(view, batch) or "the logits are finite, the loss is not"
    return not_finite(f"the loss of batch {number} is not finite: {where}")


def _total(per_sample: Tensor, backward: Backward) -> Tensor:
    if backward.reduction == "sample":
        return per_sample.sum()
    # one number for the whole batch: norms add in squares, other losses are averaged
    return per_sample.norm() if backward.loss is logit_norm else per_sample.mean()


@dataclass(frozen=True)
class PassSettings:
    """How passes over the calibration data are made; `strict` raises what `notes` would warn of."""

    seed: int = 0  # for criteria that draw
    strict: bool = False
    moments_device: str | None = None  # see `MomentSums`
    moments_dtype: torch.dtype = torch.float64
    on_batch: Callable[[], None] | None = None  # called after every batch, for progress


@dataclass(frozen=True, repr=False)
class PassResult(Brief):
    """What one pass returns.

    Attributes:
        samples: how many it saw.
        moments: if they were asked for.
        seconds: its duration.
        idle: blocks of stacks that no batch ran.
        detached: blocks of stacks that the loss does not depend on, those of `idle` included.
    """

    samples: int
    moments: Moments | None = None
    seconds: float = 0.0
    idle: frozenset[int] = frozenset()
    detached: frozenset[int] = frozenset()


def observe_all(
    view: HeadModel,
    data: Iterable[Batch] | None,
    criteria: Sequence[Any],
    *,
    mask: HeadMask | None = None,
    loss: str | Loss | None = None,
    moments: bool = False,
    settings: PassSettings | None = None,
) -> PassResult:
    """Show the data to criteria, all in one pass. They can give their scores afterwards.

    Heads that `mask` drops are masked meanwhile. Gradient criteria differentiate `loss` (None: see
    `shared_loss`). `moments` sums moments and gradients' moments even if no criterion needs them.

    Raises:
        DataError: there are no samples, or they lack labels.
        ScoreError: something is not finite; names head and batch.
    """
    settings, sums = settings or PassSettings(), None
    timer = Timer(view.model)
    needs = frozenset[str]().union(*(c.needs for c in criteria))
    if moments or "moments" in needs:
        gradients = moments or "output_gradients" in needs
        where = {"device": settings.moments_device, "dtype": settings.moments_dtype}
        sums = MomentSums(view, gradients=gradients, **where)
    trying: list[ObservesTrials] = [c for c in criteria if "trials" in c.needs]
    if trying and not isinstance(data, Sequence):
        data = list(data or ())  # used more than once
    observers = [c for c in criteria if c.needs and not c.needs & {"moments", "trials"}]
    observers += [sums] if sums else []
    loss = shared_loss([*observers, *trying], loss)
    samples, idle, detached = 0, frozenset[int](), frozenset[int]()
    if observers:
        seen = _observe(view, data or (), observers, mask, loss, settings.on_batch)
        samples, idle, detached = seen.samples, seen.idle, seen.detached
    if trying:
        from deadhead.scoring.trials import Trials  # most criteria need none

        trials = Trials(view, data, loss or "task", mask=mask, on_batch=settings.on_batch)
        samples = trials.samples
        for criterion in trying:
            criterion.observe_trials(trials)
        idle = detached = stacks_without(view, trials.ran)
    summed = sums.value() if sums else None
    for criterion in criteria:
        if isinstance(criterion, UsesMoments):
            criterion.moments = summed
    return PassResult(samples, summed, timer.seconds, idle, detached)


def stacks_without(view: HeadModel, ran: Iterable[int]) -> frozenset[int]:
    """Return the blocks of the stacks that none of these blocks is of; none of a single stack."""
    stacks = {view.blocks[number].record.stack for number in ran}
    if len(view.records) < 2:
        return frozenset()
    return frozenset(n for n, b in enumerate(view.blocks) if b.record.stack not in stacks)


def shared_loss(criteria: Iterable[Observer], loss: str | Loss | None) -> str | Loss | None:
    """Return the loss that is named; else `task`, `kl` or the first that a criterion is of."""
    if loss is not None:
        loss_named(loss)
        return loss
    wanted = [c.loss for c in criteria if c.loss is not None]
    return next((name for name in ("task", "kl") if name in wanted), next(iter(wanted), None))


def _observe(
    view: HeadModel,
    data: Iterable[Batch],
    observers: Sequence[Observer],
    mask: HeadMask | None,
    loss: str | Loss | None,
    on_batch: Callable[[], None] | None,
) -> PassResult:
    """Run the model on the data."""
    groups: dict[str, list[Any]] = {}
    for observer in observers:
        if observer.loss is not None and loss is not None:
            reduction = observer.reduction if isinstance(observer, SumsOverBatch) else "sample"
            groups.setdefault(reduction, []).append(observer)
    named = loss_named(loss) if loss is not None else logit_norm
    backwards = [Backward(named, how, group) for how, group in groups.items()]
    watchers = [c for c in observers if c.needs & {"maps", "heads"}]
    samples, ran, reached = 0, set[int](), set[int]()
    with view.at_rest(), nullcontext() if mask is None else masked(view, mask):
        for number, batch in enumerate(ready(view.model, data)):
            tape = run_batch(view, batch, number, backwards=backwards, watchers=watchers, mask=mask)
            ran, reached = ran | tape.ran, reached | tape.reached
            samples += samples_in(batch)
            if on_batch is not None:
                on_batch()
    if not samples:
        names = ", ".join(c.name for c in observers)
        raise DataError(f"{names}: there are no calibration samples; give at least one batch")
    idle = stacks_without(view, ran)
    detached = stacks_without(view, reached) if backwards else idle
    return PassResult(samples, idle=idle, detached=detached | idle)
