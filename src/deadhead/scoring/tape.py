"""What a forward pass leaves for the backward pass, and what both show of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from deadhead.errors import ScoreError
from deadhead.models.architectures import PARTS, features
from deadhead.models.blocks import Block
from deadhead.models.heads import HeadModel
from deadhead.models.observation import Observation, Projected, by_row, per_row


@dataclass
class Tape:
    """What one forward pass leaves for the backward pass."""

    gates: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, list[Tensor]] = field(default_factory=dict)
    sources: dict[int, list[Tensor]] = field(default_factory=dict)  # of key and value
    outputs: dict[tuple[int, str], list[Tensor]] = field(default_factory=dict)
    ran: set[int] = field(default_factory=set)
    reached: set[int] = field(default_factory=set)  # of those, the ones that the loss depends on


@contextmanager
def on_tape(view: HeadModel, tape: Tape, samples: int, needs: frozenset[str]) -> Iterator[None]:
    """Put what a pass goes through on a tape."""

    def gate(number: int, z: Tensor) -> Tensor:
        if number not in tape.gates:
            shape = (samples, z.shape[-2])
            tape.gates[number] = torch.ones(*shape, device=z.device, dtype=z.dtype).requires_grad_()
        return z * per_row(tape.gates[number], z, view.blocks[number])[:, None, :, None]

    def keep(number: int, part: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor):
        if not output.requires_grad:  # nothing below the first block does: parameters are frozen
            output.requires_grad_()
        if part == "query":
            tape.inputs.setdefault(number, []).append(args[0].detach())
        if part == "key":
            tape.sources.setdefault(number, []).append(args[0].detach())
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
                handle = module.register_forward_hook(partial(keep, number, part), prepend=True)
                stack.callback(handle.remove)
        yield


def _modules(block: Block) -> dict[str, nn.Module]:
    """Return the distinct projections of a block, by the first part each makes."""
    by_id = {id(getattr(block, part)): part for part in reversed(PARTS)}
    return {part: getattr(block, part) for part in PARTS if part in by_id.values()}


def gradients_of(loss: Tensor, tape: Tape, *, retain: bool) -> dict[int, Tensor]:
    """Differentiate a loss by what is on a tape; by the id of each tensor."""
    wanted = [*tape.gates.values(), *(t for ts in tape.outputs.values() for t in ts)]
    if not wanted:
        return {}
    if not loss.requires_grad:
        raise ScoreError(
            "the loss has no gradient: it is detached, or does not depend on the model's outputs;"
            " return what autograd can follow"
        )
    gradients = torch.autograd.grad(loss, wanted, retain_graph=retain, allow_unused=True)
    reached = {id(t) for t, g in zip(wanted, gradients, strict=True) if g is not None}
    tape.reached |= {number for number, gate in tape.gates.items() if id(gate) in reached}
    for (number, _), outputs in tape.outputs.items():
        tape.reached |= {number} if any(id(t) in reached for t in outputs) else set()
    pairs = zip(wanted, gradients, strict=True)
    return {id(t): torch.zeros_like(t) if g is None else g for t, g in pairs}


def observation_of(
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
        outputs.append(results and _joined([gradients[id(t)] for t in results], block))
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
        applied = _joined([gradients[id(t)] for t in tape.outputs[number, owner]], block)
        heads = range(block.shape.count(part))
        if block.record.fused:
            rows = features(block.record.layout, part, heads, block.shape)
            applied = applied[..., rows.to(applied.device)]
        parts[part] = applied.unflatten(-1, (len(heads), block.head_dim))
    inputs, source = tape.inputs[number], tape.sources.get(number, [])
    other = any(a.data_ptr() != b.data_ptr() for a, b in zip(inputs, source, strict=False))
    return Projected(
        _joined(inputs, block), **parts, source=_joined(source, block) if other else None
    )


def _joined(applications: list[Tensor], block: Block) -> Tensor:
    """Put the applications of a shared block one after the other; one alone is not copied."""
    rows = [by_row(each, block) for each in applications]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
