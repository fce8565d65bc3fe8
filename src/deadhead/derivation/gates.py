"""Laws about the gates of heads: their gradients, a head that does nothing, the hooks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from deadhead.derivation.exercises import Exercise
from deadhead.derivation.laws import HUGE, run_exercises
from deadhead.derivation.results import NotApplicable, Refuted
from deadhead.models.blocks import output_rows
from deadhead.models.heads import HeadModel

STEP = 1e-6  # of the gates, for finite differences
CLOSE = 1e-5  # relative to the largest gradient


def _answer(view: HeadModel, exercises: Sequence[Exercise], gates: Sequence[Tensor]) -> Tensor:
    """Return one number: all outputs, each weighted at random."""
    model: Any = view.model
    gradients = any(gate.requires_grad for gate in gates)
    with view.gated(gates):
        outputs = run_exercises(model, exercises, gradients=gradients)
    total = torch.zeros((), dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    for output in outputs:
        weights = torch.randn(output.shape, generator=draws, dtype=torch.float64)
        usable = output.detach().abs() < HUGE
        total = total + (torch.where(usable, output.double(), 0) * weights).sum()
    return total


def head_gradients(view: HeadModel, exercises: Sequence[Exercise]) -> list[Tensor]:
    """Return the gradients of the gates of all heads, by backpropagation; (heads,) per block.

    Zeros in a block on which no output depends (LLaVA reads the last block of its image encoder
    but one).
    """
    gates = [
        torch.ones(block.n_heads, dtype=torch.float64, requires_grad=True) for block in view.blocks
    ]
    with view.at_rest():
        answer = _answer(view, exercises, gates)
        if not answer.requires_grad:
            raise Refuted("no output depends on the gates of the heads")
        return list(torch.autograd.grad(answer, gates, materialize_grads=True))


def gate_gradients(view: HeadModel, exercises: Sequence[Exercise]) -> str:
    """Compare gradients of the gates with finite differences, along up to three directions."""
    exact = head_gradients(view, exercises)
    scale = max(1.0, *(float(g.abs().max()) for g in exact))
    draws = torch.Generator().manual_seed(1)
    best = float("inf")
    for _ in range(3):  # a direction may cross a kink
        along = [torch.randn(g.shape, generator=draws, dtype=torch.float64) for g in exact]
        expected = float(sum((g * d).sum() for g, d in zip(exact, along, strict=True)))
        with view.at_rest():
            ends = [
                float(_answer(view, exercises, [1 + sign * STEP * d for d in along]))
                for sign in (1, -1)
            ]
        best = min(best, abs((ends[0] - ends[1]) / (2 * STEP) - expected) / scale)
        if best <= CLOSE:
            return f"differ from finite differences by {best:.0e}"
    raise Refuted(f"differ from finite differences by {best:.1e}, more than {CLOSE:.0e}")


def dead_head_is_last(model: PreTrainedModel, exercises: Sequence[Exercise]) -> str:
    """Silence one head of every block and see that its gate has the smallest gradient."""
    other = copy.deepcopy(model)
    view = HeadModel(other)
    if all(block.n_heads < 2 for block in view.blocks):
        raise NotApplicable("its blocks have one head each")
    with torch.no_grad():
        for number, block in enumerate(view.blocks):
            start = _dead(number, block.n_heads) * block.head_dim
            output_rows(block.output).detach()[:, start : start + block.head_dim] = 0
    rows = head_gradients(view, exercises)
    telling = [number for number, row in enumerate(rows) if row.any()]
    for number in telling:
        size = rows[number].abs()
        dead = float(size[_dead(number, len(size))])
        if dead > float(size.min()) or (len(size) > 1 and dead >= float(size.max())):
            raise Refuted(f"in block {view.blocks[number].label} its gradient is {dead:.1e}")
    if not telling:
        raise Refuted("no output depends on the gates of the heads")
    which = "each" if len(telling) == len(rows) else f"{len(telling)}"
    return f"in {which} of {len(rows)} blocks"


def _dead(number: int, n_heads: int) -> int:
    return (number + 1) % n_heads


def hooks_are_seen(view: HeadModel, exercises: Sequence[Exercise]) -> str:
    """See that the hook of every block is called, with a row of heads."""
    seen: set[int] = set()

    def see(number: int, z: Tensor) -> None:
        block = view.blocks[number]
        if tuple(z.shape[-2:]) != (block.n_heads, block.head_dim):
            raise Refuted(f"block {block.label} hands its hook {tuple(z.shape)}")
        seen.add(number)

    model: Any = view.model
    with view.hook_heads(see):
        run_exercises(model, exercises)
    missed = [block.label for number, block in enumerate(view.blocks) if number not in seen]
    if missed:
        raise Refuted(f"block {missed[0]} calls no hook in any run")
    return f"in each of {len(view.blocks)} blocks"
