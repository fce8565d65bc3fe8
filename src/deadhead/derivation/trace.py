"""Watch a tiny model run: which linear map projects the heads of which softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from deadhead.derivation.exercises import Exercise, perform
from deadhead.errors import UnsupportedModelError
from deadhead.models.blocks import is_conv1d

SOFTMAXES: tuple[Callable[..., Any], ...] = (torch.softmax, F.softmax, Tensor.softmax)
TOO_MANY = 1 << 24  # elements of one softmax
MOST_ELEMENTS = 1 << 18  # of a softmax, which is looked at one by one; else row by row
FUSED_ATTENTION: Callable[..., Any] = F.scaled_dot_product_attention


@dataclass
class Attended:
    """One softmax over keys, or one fused attention.

    Attributes:
        path: the module in which it ran.
        output: what it returned, (..., query, key), with its graph.
        fused: whether it is the output of a fused attention, (..., query, features).
    """

    path: str
    output: Tensor
    fused: bool


@dataclass
class LinearCall:
    """One call of a linear map: its path, what went in and what came out, with their graph."""

    path: str
    input: Tensor
    output: Tensor


@dataclass
class Trace:
    """What one exercise did, in order."""

    events: list[Attended | LinearCall] = field(default_factory=list)


@dataclass(frozen=True)
class Site:
    """A row of heads found in front of an output projection.

    Attributes:
        attention: path of the module that computed the softmax.
        output: path of the output projection.
        n_heads: heads in the row.
        head_dim: features per head, contiguous.
        softmax: the softmax.
        z: the input of the output projection.
        projections: the linear maps called before it, since the previous site.
    """

    attention: str
    output: str
    n_heads: int
    head_dim: int
    softmax: Attended
    z: Tensor
    projections: tuple[LinearCall, ...]


class _Watch(TorchFunctionMode):
    def __init__(self, tape: Trace, stack: list[str]):
        super().__init__()
        self.tape, self.stack, self.inside = tape, stack, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (func in SOFTMAXES or func is FUSED_ATTENTION) and self.stack:
            fused = func is FUSED_ATTENTION
            if isinstance(result, Tensor) and result.numel() > TOO_MANY:
                raise UnsupportedModelError(
                    f"a tiny model attends over {result.shape[-1]} tokens, too many to trace"
                )
            if isinstance(result, Tensor) and result.requires_grad and result.dim() >= 2:
                self.tape.events.append(Attended(self.stack[-1], result, fused))
        return result


def record(model: PreTrainedModel, exercise: Exercise) -> Trace:
    """Run an exercise with gradients and note every softmax and every linear map.

    Cost: one forward pass, whose graph the tape keeps alive.
    """
    tape, stack = Trace(), []
    with _stacked(model, tape, stack), torch.enable_grad(), _Watch(tape, stack):
        perform(model, exercise)
    return tape


@contextmanager
def _stacked(model: nn.Module, tape: Trace, stack: list[str]) -> Iterator[None]:
    handles = []

    def hooks(path: str, linear: bool) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(module: nn.Module, args: Any) -> None:
            stack.append(path)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if stack:
                stack.pop()
            if linear and args and isinstance(output, Tensor):
                tape.events.append(LinearCall(path, args[0], output))

        return before, after

    for path, module in model.named_modules():
        before, after = hooks(path, is_linear(module))
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a plain linear map, `nn.Linear` or GPT-2's Conv1D."""
    weight = module._parameters.get("weight")
    named = isinstance(module, nn.Linear) or is_conv1d(module)
    return named and weight is not None and weight.dim() == 2


def sites_in(tape: Trace) -> list[Site]:
    """Find the rows of heads: a softmax, and the first linear map that depends on it.

    The heads are the contiguous slices of that map's input, of equal length, each of which depends
    on a part of the softmax of its own. A softmax that feeds no such row (a router, a pooler) is
    passed over, as is a second call of the same projection.

    Cost: one small backward pass per feature of the input.
    """
    found: dict[str, Site] = {}
    start = 0
    for number, event in enumerate(tape.events):
        if not isinstance(event, Attended):
            continue
        at, projected = _first_dependent(tape, event, number)
        if projected is None or projected.path in found:
            continue
        head_dim = _head_dim(event, projected.input)
        if head_dim is None:
            continue
        width = projected.input.shape[-1]
        before = [e for e in tape.events[start:at] if isinstance(e, LinearCall)]
        found[projected.path] = Site(
            event.path,
            projected.path,
            width // head_dim,
            head_dim,
            event,
            projected.input,
            tuple(before),
        )
        start = at
    return list(found.values())


def _first_dependent(tape: Trace, softmax: Attended, number: int) -> tuple[int, LinearCall | None]:
    """Return the first linear map behind a softmax that depends on it, and its place."""
    for at in range(number + 1, len(tape.events)):
        event = tape.events[at]
        if not isinstance(event, LinearCall) or not _differentiable(event.input):
            continue
        gradient = gradient_of(event.input.sum(), softmax.output)
        if gradient is not None:
            return at, event
    return len(tape.events), None


def _differentiable(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.requires_grad and tensor.dim() >= 2


def gradient_of(value: Tensor, by: Tensor) -> Tensor | None:
    """Return a gradient and keep the graph; None if there is no path."""
    return torch.autograd.grad(value, by, retain_graph=True, allow_unused=True)[0]


def _head_dim(softmax: Attended, z: Tensor) -> int | None:
    """Return the features per head if features fall into contiguous rows of heads, else None."""
    row = z.reshape(-1, z.shape[-1])[-1]
    supports = []
    for value in row:
        gradient = gradient_of(value, softmax.output)
        if gradient is None:
            return None
        touched = gradient != 0
        small = softmax.output.numel() <= MOST_ELEMENTS and not softmax.fused
        supports.append((touched if small else touched.any(-1)).flatten())
    support = torch.stack(supports)
    changes = (support[1:] != support[:-1]).any(1).nonzero().flatten() + 1
    starts = [0, *changes.tolist(), len(row)]
    sizes = {b - a for a, b in pairwise(starts)}
    firsts = support[starts[:-1]].to(torch.int)
    apart = int(firsts.sum(0).max()) <= 1 and bool(firsts.any(1).all())
    alike = len(sizes) == 1 and apart and len(starts) > 2
    return sizes.pop() if alike and 1 not in sizes else None  # 1: probabilities, projected
