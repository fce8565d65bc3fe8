"""All laws of a model whose heads are known, each with its number or the reason it says nothing."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deadhead.derivation.derive import kept_whole
from deadhead.derivation.exercises import Exercise, not_exercised
from deadhead.derivation.gates import dead_head_is_last, gate_gradients, hooks_are_seen
from deadhead.derivation.generation import cached_generation
from deadhead.derivation.laws import (
    draw_masks,
    mask_equals_removal,
    stacks_of,
    tolerance_of,
    within,
    wrong_cuts,
)
from deadhead.derivation.records import starred
from deadhead.derivation.reloading import saved_and_loaded
from deadhead.derivation.results import LawResult, NotApplicable, Refuted, judged
from deadhead.derivation.traits import backends
from deadhead.errors import UnsupportedModelError
from deadhead.models.heads import HeadModel
from deadhead.surgery.remove import remove_
from deadhead.types import HeadMask, PruningPlan

MASKS = 5
OF_GATES = ("gate gradients", "a dead head is last", "hooks are seen")
Backend = Literal["eager", "sdpa"]


@dataclass(frozen=True)
class Proof:
    """What the laws say of one model.

    Attributes:
        laws: one result per law.
        kept_whole: paths of attention modules that belong to no stack and are never cut; `*` for
            numbers.
    """

    laws: tuple[LawResult, ...]
    kept_whole: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> tuple[LawResult, ...]:
        """The laws that do not hold."""
        return tuple(law for law in self.laws if law.status == "failed")

    @property
    def verdict(self) -> str:
        """`exact`, `exact in part: ...` or `refused: ...`."""
        if self.failed:
            return f"refused: {self.failed[0].law}: {self.failed[0].detail}"
        if self.kept_whole:
            return f"exact in part: kept whole: {', '.join(self.kept_whole)}"
        return "exact"


def prove_laws(
    model: PreTrainedModel,
    exercises: Sequence[Exercise],
    *,
    fresh_process: bool = True,
    tiny: bool = True,
) -> Proof:
    """Run all laws, and list the attention modules that are kept whole; see `check_laws`."""
    laws = tuple(check_laws(model, exercises, fresh_process=fresh_process, tiny=tiny))
    outputs = {id(block.output) for block in HeadModel(model).blocks}
    paths = [name for name, module in model.named_modules() if id(module) in outputs]
    idle = not_exercised(model, exercises)
    whole = [*kept_whole(model, paths, idle), *(p for p in idle if not _holds(p, paths))]
    inner = [p for p in whole if not any(other.startswith(f"{p}.") for other in whole)]
    return Proof(laws, tuple(dict.fromkeys(map(starred, inner))))


def _holds(path: str, outputs: Sequence[str]) -> bool:
    """Whether an attention module, or the module around it, holds an output projection."""
    around = path.rpartition(".")[0]
    return any(output.startswith((f"{path}.", f"{around}.")) for output in outputs)


def check_laws(
    model: PreTrainedModel,
    exercises: Sequence[Exercise],
    *,
    fresh_process: bool = True,
    tiny: bool = True,
) -> list[LawResult]:
    """Run the laws that a model's architecture records have to obey. The model stays as it is.

    Args:
        model: a model with eager attention whose type has records.
        exercises: ways to run it; see `exercises`.
        fresh_process: load what was saved in a new process, which takes seconds; else in this one.
        tiny: whether it is a tiny random one in float64. On others, fewer masks are tried, and the
            laws about gates, which need backward passes in float64, are left out.

    Returns:
        One result per law, in a fixed order.

    Cost: about a hundred forward passes and a dozen backward passes; if not tiny, some thirty
    forward passes over a few tokens, and memory for three models.

    Raises:
        UnsupportedModelError: the model has no records, or contradicts them.
    """
    before = _state(model)
    view = HeadModel(model)
    masks = draw_masks(view, MASKS if tiny else 2, seed=1)

    laws: dict[str, Callable[[], str]] = {
        "mask == removal, eager": lambda: _mask_equals_removal(model, exercises, masks, "eager"),
        "mask == removal, sdpa": lambda: _mask_equals_removal(model, exercises, masks, "sdpa"),
        "a wrong cut is caught": lambda: _wrong_cuts_are_caught(view, exercises),
        "a block without heads": lambda: _without_heads(view, exercises),
        "saved and loaded": lambda: saved_and_loaded(
            model, exercises, masks[0], fresh_process=fresh_process
        ),
        "cached == uncached": lambda: cached_generation(model, exercises, tiny=tiny),
        "gate gradients": lambda: gate_gradients(view, exercises),
        "a dead head is last": lambda: dead_head_is_last(model, exercises),
        "hooks are seen": lambda: hooks_are_seen(view, exercises),
        "the model is as found": lambda: _as_found(model, before),
    }
    left = () if tiny else OF_GATES
    return [judged(name, law) for name, law in laws.items() if name not in left]


def _mask_equals_removal(
    model: PreTrainedModel,
    exercises: Sequence[Exercise],
    masks: Sequence[HeadMask],
    backend: Backend,
) -> str:
    if backend == "sdpa":
        model = _with_sdpa(model, exercises)
    worst, most = mask_equals_removal(model, exercises, masks), tolerance_of(model)
    if worst <= most:
        return f"{len(masks)} masks, largest difference {worst:.0e}"
    view = HeadModel(model)
    for stack, blocks in stacks_of(view).items():
        off = mask_equals_removal(model, exercises, [within(view, m, blocks) for m in masks])
        if off > most:
            where = f"stack {stack!r} at {view.blocks[blocks[0]].record.blocks!r}"
            raise Refuted(f"{where} is off by {off:.1e}, more than {most:.0e}")
    raise Refuted(f"off by {worst:.1e}, more than {most:.0e}")


def _with_sdpa(model: PreTrainedModel, exercises: Sequence[Exercise]) -> PreTrainedModel:
    """Return a copy whose attention is computed by torch's own function."""
    if not getattr(model, "_supports_sdpa", False):
        raise NotApplicable(f"transformers has no sdpa for {type(model).__name__}")
    *_, other = backends(model, exercises)
    if other is model:
        raise NotApplicable("a model with sdpa does not run these inputs")
    return other


def _wrong_cuts_are_caught(view: HeadModel, exercises: Sequence[Exercise]) -> str:
    """Mask some heads and remove others, stack by stack: the outputs have to differ."""
    found = wrong_cuts(view, exercises)
    if not found:
        raise NotApplicable("its blocks have one head each")
    for stack, off in found.items():
        if off <= tolerance_of(view.model):
            raise Refuted(f"stack {stack!r}: removing other heads than were masked changes nothing")
    single = [stack for stack in stacks_of(view) if stack not in found]
    return f"smallest difference {min(found.values()):.0e}" + (
        f"; one head: {single}" if single else ""
    )


def _without_heads(view: HeadModel, exercises: Sequence[Exercise]) -> str:
    """Remove every head of every other block, first the even ones, then the odd ones."""
    refused = {r.stack for r in view.records if r.headless == "refused"}
    free = [n for n, block in enumerate(view.blocks) if block.record.stack not in refused]
    if not free:
        number = 0
        mask = HeadMask.of([i != number and k for k in row] for i, row in enumerate(view.mask.kept))
        try:
            remove_(copy.deepcopy(view.model), PruningPlan(mask, gqa="equalize"))
        except UnsupportedModelError:
            raise NotApplicable("some head of each block has to stay; removal refuses it") from None
        raise Refuted("the record refuses a block without heads, and removal does not")
    model: Any = view.model
    worst = 0.0
    for chosen in (free[::2], free[1::2]):
        rows = enumerate(view.mask.kept)
        mask = HeadMask.of([k and n not in chosen for k in row] for n, row in rows)
        if chosen:
            worst = max(worst, mask_equals_removal(model, exercises, [mask]))
    most = tolerance_of(model)
    if worst > most:
        raise Refuted(f"mask and removal differ by {worst:.1e}, more than {most:.0e}")
    kept = f"; needs a head: {', '.join(sorted(refused))}" if refused else ""
    return f"largest difference {worst:.0e}{kept}"


State = tuple[dict[str, str], int, bool]


def _state(model: nn.Module) -> State:
    tensors = {name: _digest(tensor) for name, tensor in model.state_dict().items()}
    modules = list(model.modules())
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    return tensors, hooks, model.training


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(flat.numpy().tobytes(), digest_size=16).hexdigest()


def _as_found(model: nn.Module, before: State) -> str:
    tensors, hooks, training = _state(model)
    if tensors.keys() != before[0].keys():
        raise Refuted("its state dict has other tensors")
    for name, digest in tensors.items():
        if digest != before[0][name]:
            raise Refuted(f"the laws changed {name!r}")
    if (hooks, training) != before[1:]:
        raise Refuted(f"it had {before[1]} hooks and has {hooks}")
    return f"{len(tensors)} tensors, {hooks} hooks"
