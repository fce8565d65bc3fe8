"""The passes that criteria share: one forward, one backward per loss, for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.criteria.base import Observer, ObservesTrials, SumsOverBatch, UsesMoments
from deadhead.data.batches import Batch, call, ready, samples_in, valid_tokens
from deadhead.display import Brief
from deadhead.errors import DataError, ScoreError, UnsupportedModelError, not_finite
from deadhead.losses.losses import Loss, logit_norm, loss_named
from deadhead.measure import Timer
from deadhead.models.architectures import PARTS, features
from deadhead.models.blocks import Block
from deadhead.models.heads import HeadModel
from deadhead.models.observation import Observation, Projected
from deadhead.moments import Moments, MomentSums
from deadhead.surgery.mask import masked
from deadhead.types import HeadMask


@dataclass
class Tape:
    """What one forward pass leaves for the backward pass."""

    gates: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, list[Tensor]] = field(default_factory=dict)
    outputs: dict[tuple[int, str], list[Tensor]] = field(default_factory=dict)


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
) -> None:
    """Run one batch and show every criterion what it asked for.

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

            stack.enter_context(hook_maps(view, _show_maps(view, of_maps, valid, number, mask)))
        of_heads = [c for c in watchers if "heads" in c.needs]

        def show_heads(block: int, z: Tensor) -> None:
            for criterion in of_heads:
                criterion.observe_heads(block, z.detach(), valid, number)

        if of_heads:
            stack.enter_context(view.hook_heads(show_heads))
        if backwards:
            stack.enter_context(_recorded(view, tape, samples, needs))
        stack.enter_context(torch.set_grad_enabled(bool(backwards)))
        outputs = call(view.model, batch)
        for backward in backwards:
            per_sample = backward.loss(view.model, outputs, batch)
            check_shape(per_sample, samples)
            if not torch.isfinite(per_sample).all():
                raise not_finite_loss(view, batch, number)
            retain = backward is not backwards[-1]
            gradients = _gradients(_total(per_sample, backward), tape, retain=retain)
            seen = _observation(view, gradients, tape, needs, (number, samples, valid))
            for criterion in backward.criteria:
                criterion.observe(seen)


def _show_maps(
    view: HeadModel, watchers: Sequence[Any], valid: Tensor, number: int, mask: HeadMask | None
) -> Callable[..., None]:
    off = [
        torch.tensor([mask is not None and not mask.kept[b][i] for i in block.original.heads])
        for b, block in enumerate(view.blocks)
    ]

    def fn(block: int, rows: slice, maps: Tensor, visible: Tensor | None) -> None:
        if off[block].any():
            maps = maps.masked_fill(off[block].to(maps.device)[:, None, None], 0)
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


@contextmanager
def _recorded(view: HeadModel, tape: Tape, samples: int, needs: frozenset[str]) -> Iterator[None]:
    def gate(number: int, z: Tensor) -> Tensor:
        if number not in tape.gates:
            shape = (samples, z.shape[-2])
            tape.gates[number] = torch.ones(*shape, device=z.device, dtype=z.dtype).requires_grad_()
        gates = tape.gates[number]
        mixed = view.blocks[number].record.samples < 0
        if mixed or len(z) % samples:
            raise UnsupportedModelError(
                f"block {number} ({view.blocks[number].name}) mixes the samples of a batch, so its"
                " heads have no gradient per sample; choose a criterion that needs no gradients"
                " (magnitude, output_norm, random)"
            )
        if len(z) != samples:  # several choices per sample
            gates = gates.repeat_interleave(len(z) // samples, 0)
        return z * gates[:, None, :, None]

    def keep(number: int, part: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor):
        if not output.requires_grad:  # nothing below the first block does: parameters are frozen
            output.requires_grad_()
        if part == "query":
            tape.inputs.setdefault(number, []).append(args[0].detach())
        tape.outputs.setdefault((number, part), []).append(output)
        return output

    with ExitStack() as stack:
        # without gates too: a pass that bypasses hooks is refused
        stack.enter_context(view.hook_heads(gate if "gates" in needs else lambda number, z: None))
        for number, block in enumerate(view.blocks):
            recorded = _modules(block) if "projections" in needs and block.n_heads else {}
            if "output_gradients" in needs and block.n_heads:
                recorded = {**recorded, "output": block.output}
            for part, module in recorded.items():
                handle = module.register_forward_hook(partial(keep, number, part))
                stack.callback(handle.remove)
        yield


def _modules(block: Block) -> dict[str, nn.Module]:
    """Return the distinct projections of a block, by the first part each makes."""
    by_id = {id(getattr(block, part)): part for part in reversed(PARTS)}
    return {part: getattr(block, part) for part in PARTS if part in by_id.values()}


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


def _gradients(loss: Tensor, tape: Tape, *, retain: bool) -> dict[int, Tensor]:
    wanted = [*tape.gates.values(), *(t for ts in tape.outputs.values() for t in ts)]
    if not wanted:
        return {}
    if not loss.requires_grad:
        raise ScoreError(
            "the loss has no gradient: it is detached, or does not depend on the model's outputs;"
            " return what autograd can follow"
        )
    gradients = torch.autograd.grad(loss, wanted, retain_graph=retain, allow_unused=True)
    pairs = zip(wanted, gradients, strict=True)
    return {id(t): torch.zeros_like(t) if g is None else g for t, g in pairs}


def _observation(
    view: HeadModel,
    gradients: dict[int, Tensor],
    tape: Tape,
    needs: frozenset[str],
    seen: tuple[int, int, Tensor],
) -> Observation:
    """Sort the gradients by block, and by what they are gradients of."""
    gates, outputs = [], []
    for number, block in enumerate(view.blocks):
        gate = tape.gates.get(number)
        gates.append(torch.zeros(0, block.n_heads) if gate is None else gradients[id(gate)])
        results = tape.outputs.get((number, "output"))
        outputs.append(results and _joined([gradients[id(t)] for t in results]))
    numbers = range(len(view.blocks)) if "projections" in needs else ()
    projected = [_projected(view, gradients, tape, n) for n in numbers]
    return Observation(*seen, gates, projected, outputs)


def _projected(
    view: HeadModel, gradients: dict[int, Tensor], tape: Tape, number: int
) -> Projected | None:
    if number not in tape.inputs:
        return None
    block = view.blocks[number]
    parts = {}
    for part in PARTS:
        owner = next(p for p, m in _modules(block).items() if m is getattr(block, part))
        applied = _joined([gradients[id(t)] for t in tape.outputs[number, owner]])
        heads = range(block.shape.count(part))
        if block.record.fused:
            rows = features(block.record.layout, part, heads, block.shape)
            applied = applied[..., rows.to(applied.device)]
        parts[part] = applied.unflatten(-1, (len(heads), block.head_dim))
    return Projected(_joined(tape.inputs[number]), **parts)


def _joined(applications: list[Tensor]) -> Tensor:
    """Put the applications of a shared block one after the other; one alone is not copied."""
    return applications[0] if len(applications) == 1 else torch.cat(applications, dim=1)


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
    """What one pass returns: the number of samples, moments if asked for, and its duration."""

    samples: int
    moments: Moments | None = None
    seconds: float = 0.0


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
    samples = (
        _observe(view, data or (), observers, mask, loss, settings.on_batch) if observers else 0
    )
    if trying:
        from deadhead.scoring.trials import Trials  # most criteria need none

        trials = Trials(view, data, loss or "task", mask=mask, on_batch=settings.on_batch)
        samples = trials.samples
        for criterion in trying:
            criterion.observe_trials(trials)
    summed = sums.value() if sums else None
    for criterion in criteria:
        if isinstance(criterion, UsesMoments):
            criterion.moments = summed
    return PassResult(samples, summed, timer.seconds)


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
) -> int:
    """Run the model on the data; return the number of samples."""
    groups: dict[str, list[Any]] = {}
    for observer in observers:
        if observer.loss is not None and loss is not None:
            reduction = observer.reduction if isinstance(observer, SumsOverBatch) else "sample"
            groups.setdefault(reduction, []).append(observer)
    named = loss_named(loss) if loss is not None else logit_norm
    backwards = [Backward(named, how, group) for how, group in groups.items()]
    watchers = [c for c in observers if c.needs & {"maps", "heads"}]
    samples = 0
    with view.at_rest(), nullcontext() if mask is None else masked(view, mask):
        for number, batch in enumerate(ready(view.model, data)):
            run_batch(view, batch, number, backwards=backwards, watchers=watchers, mask=mask)
            samples += samples_in(batch)
            if on_batch is not None:
                on_batch()
    if not samples:
        names = ", ".join(c.name for c in observers)
        raise DataError(f"{names}: there are no calibration samples; give at least one batch")
    return samples
