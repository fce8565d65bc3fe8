"""The passes that criteria share: one forward, one backward per distinct loss, for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.criteria.base import ObservesHeads, ObservesMaps
from deadhead.data.inputs import Batch, call, samples_in, valid_tokens
from deadhead.errors import ScoreError
from deadhead.losses.losses import Loss, logit_norm, loss_named
from deadhead.models.architectures import PARTS, features
from deadhead.models.blocks import Block
from deadhead.models.heads import HeadModel
from deadhead.models.observation import Observation, Projected
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
    gradients; maps of heads that `mask` drops are shown as zeros. Cost: one forward pass, and one
    backward pass per entry of `backwards`. Parameters get no gradients; the model is expected to
    be at rest (see `HeadModel.at_rest`).

    Raises:
        ScoreError: gradients are wanted under `torch.inference_mode`, which has none.
        ScoreError: the loss is not finite; names the batch, and the block and head where it began.
    """
    if backwards and torch.is_inference_mode_enabled():
        raise ScoreError(
            "torch.inference_mode() lets no gradient through; score outside of it, or choose a"
            " criterion without gradients (attention_entropy, magnitude)"
        )
    valid, samples = valid_tokens(batch), samples_in(batch)
    tape = Tape()
    with ExitStack() as stack:
        of_maps = [c for c in watchers if "maps" in c.needs]
        if of_maps:
            from deadhead.models.maps import hook_maps  # most criteria need none

            stack.enter_context(hook_maps(view, _show_maps(view, of_maps, valid, number, mask)))
        of_heads = [c for c in watchers if "heads" in c.needs]
        if of_heads:
            stack.enter_context(view.hook_heads(_show_heads(of_heads, valid, number)))
        needs = frozenset[str]().union(*(c.needs for b in backwards for c in b.criteria))
        if backwards:
            stack.enter_context(_recorded(view, tape, samples, needs))
            stack.enter_context(torch.enable_grad())
        else:
            stack.enter_context(torch.no_grad())
        outputs = call(view.model, batch)
        for at, backward in enumerate(backwards):
            per_sample = backward.loss(view.model, outputs, batch)
            check_shape(per_sample, samples)
            if not torch.isfinite(per_sample).all():
                raise ScoreError(not_finite_loss(view, batch, number))
            loss = _total(per_sample, backward)
            last = at + 1 == len(backwards)
            gradients = _gradients(loss, tape, retain=not last)
            seen = Observation(
                batch=number,
                samples=samples,
                valid=valid,
                gate_gradients=[_gate(gradients, tape, n, b) for n, b in enumerate(view.blocks)],
                projected=[_projected(view, gradients, tape, n) for n in range(len(view.blocks))]
                if "projections" in needs
                else [],
                output_gradients=[_results(gradients, tape, n) for n in range(len(view.blocks))],
            )
            for criterion in backward.criteria:
                criterion.observe(seen)


def _show_maps(
    view: HeadModel,
    watchers: Sequence[ObservesMaps],
    valid: Tensor,
    number: int,
    mask: HeadMask | None,
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


def _show_heads(
    watchers: Sequence[ObservesHeads], valid: Tensor, number: int
) -> Callable[..., None]:
    def fn(block: int, z: Tensor) -> None:
        for criterion in watchers:
            criterion.observe_heads(block, z.detach(), valid, number)

    return fn


def check_shape(per_sample: Any, samples: int) -> None:
    """Refuse a loss that is not one number per sample."""
    shape = list(per_sample.shape) if isinstance(per_sample, Tensor) else type(per_sample).__name__
    if shape != [samples]:
        raise ScoreError(
            f"the loss returned {shape}, and has to return a tensor of one number per sample,"
            f" [{samples}]; do not average over the batch"
        )


def check_value(loss: str | Loss) -> None:
    """Refuse a loss that does not say how good a model is."""
    if loss_named(loss) is loss_named("logit_norm"):
        raise ScoreError(
            "the loss 'logit_norm' does not say how good a model is; choose 'kl', which needs no"
            " labels, or 'task'"
        )


@contextmanager
def _recorded(view: HeadModel, tape: Tape, samples: int, needs: frozenset[str]) -> Iterator[None]:
    def gate(number: int, z: Tensor) -> Tensor:
        if number not in tape.gates:
            shape = (samples, z.shape[-2])
            tape.gates[number] = torch.ones(*shape, device=z.device, dtype=z.dtype).requires_grad_()
        gates = tape.gates[number]
        if len(z) != samples:  # several choices per sample
            gates = gates.repeat_interleave(len(z) // samples, 0)
        return z * gates[:, None, :, None]

    with ExitStack() as stack:
        # without gates too: a pass that bypasses hooks is refused
        stack.enter_context(view.hook_heads(gate if "gates" in needs else lambda number, z: None))
        for number, block in enumerate(view.blocks):
            if not block.n_heads:
                continue
            recorded = _modules(block) if "projections" in needs else {}
            if "output_gradients" in needs:
                recorded = {**recorded, "output": block.output}
            for part, module in recorded.items():
                hook = module.register_forward_hook(_recorder(tape, number, part))
                stack.callback(hook.remove)
        yield


def _modules(block: Block) -> dict[str, nn.Module]:
    """Return the distinct projections of a block, by the first part each makes."""
    distinct: dict[str, nn.Module] = {}
    for part in PARTS:
        if all(getattr(block, part) is not m for m in distinct.values()):
            distinct[part] = getattr(block, part)
    return distinct


def _recorder(tape: Tape, number: int, part: str) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not output.requires_grad:  # nothing below the first block does: parameters are frozen
            output.requires_grad_()
        if part == "query":
            tape.inputs.setdefault(number, []).append(args[0].detach())
        tape.outputs.setdefault((number, part), []).append(output)
        return output

    return hook


def not_finite_loss(view: HeadModel, batch: Batch, number: int) -> str:
    """Say that a batch's loss is not finite, and where it began."""
    from deadhead.scoring.not_finite import where_not_finite

    where = where_not_finite(view, batch) or "the logits are finite, the loss is not"
    return (
        f"the loss of batch {number} is not finite: {where};"
        " look with 'deadhead score --diagnose', or compute with --dtype float32"
    )


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


def _gate(gradients: dict[int, Tensor], tape: Tape, number: int, block: Block) -> Tensor:
    gate = tape.gates.get(number)
    return torch.zeros(0, block.n_heads) if gate is None else gradients[id(gate)]


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
        if view.architecture.fused:
            rows = features(view.architecture.layout, part, heads, block.shape)
            applied = applied[..., rows.to(applied.device)]
        parts[part] = applied.unflatten(-1, (len(heads), block.head_dim))
    return Projected(_joined(tape.inputs[number]), **parts)


def _results(gradients: dict[int, Tensor], tape: Tape, number: int) -> Tensor | None:
    results = tape.outputs.get((number, "output"))
    return None if results is None else _joined([gradients[id(t)] for t in results])


def _joined(applications: list[Tensor]) -> Tensor:
    """Put the applications of a shared block one after the other; one alone is not copied."""
    return applications[0] if len(applications) == 1 else torch.cat(applications, dim=1)
