"""What makes hooks trustworthy: plain code, one thread, and proof that every hook was called."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from deadhead.errors import ModelInUseError, UnsupportedModelError

Note = Callable[[int, nn.Module], None]

_LOCK = threading.Lock()
_OWNERS: WeakKeyDictionary[nn.Module, tuple[int, int]] = WeakKeyDictionary()  # (thread, depth)
_EAGER: list[Any] = []  # the compiler's stance before the first context, one entry per context

_COPIED = (
    "the hooks of one model were called by a copy of it (copy.deepcopy, or a replica of"
    " DataParallel): copy the model outside of the context, and run it on one device"
)


@contextmanager
def claimed(module: nn.Module, *, alone: bool = False) -> Iterator[None]:
    """Keep other threads from hooking or changing a model until the context is left.

    Contexts of one thread nest, unless `alone`, for changes that hooks would not survive.

    Raises:
        ModelInUseError: another thread is in such a context, or this one is and wants to be alone.
    """
    me = threading.get_ident()
    with _LOCK:
        owner, depth = _OWNERS.get(module, (me, 0))
        if owner != me:
            raise ModelInUseError(
                "another thread masks, scores or changes this model right now; take turns"
                " (a threading.Lock), or give each thread its own copy (copy.deepcopy)"
            )
        if alone and depth:
            raise ModelInUseError(
                "the model is masked or hooked right now, and changing its weights needs it"
                " unhooked; leave the 'with' block first"
            )
        _OWNERS[module] = (me, depth + 1)
    try:
        yield
    finally:
        with _LOCK:
            owner, depth = _OWNERS.pop(module)
            if depth > 1:
                _OWNERS[module] = (owner, depth - 1)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what `torch.compile` has compiled as plain Python, as compiled code ignores hooks.

    Covers compiled models, layers and functions, and `generate` with a static cache, whether they
    were compiled before or are called for the first time in the context. Nothing is recompiled.
    """
    with _LOCK:
        try:
            _EAGER.append(_EAGER[0] if _EAGER else torch.compiler.set_stance("force_eager"))
        except RuntimeError as error:
            raise UnsupportedModelError(
                "a model cannot be masked or hooked inside a function that torch.compile compiles;"
                " enter the context outside of it"
            ) from error
    try:
        yield
    finally:
        with _LOCK:
            stance = _EAGER.pop()
            if not _EAGER:
                stance.__exit__(None, None, None)


def forget_compiled() -> None:
    """Discard what `torch.compile` has compiled: it does not notice the hooks that surgery adds."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # nothing is compiled before it is imported
    if dynamo is not None and dynamo.counters["frames"]:
        torch.compiler.reset()


@contextmanager
def proven(
    models: Sequence[nn.Module],
    hooked: Mapping[int, tuple[str, nn.Module]],
    replayed: Collection[int] = (),
    stacks: Mapping[int, tuple[str, nn.Module]] | None = None,
    *,
    others: bool = False,
) -> Iterator[Note]:
    """Check that every forward pass of a model calls the hooks of its blocks.

    Args:
        models: the model and its base model; a pass of either is checked.
        hooked: name and hooked module of each block, by number.
        replayed: blocks that are known not to be computed, at the moment of each pass.
        stacks: stack and attention module of each block, of a model with several stacks. A pass
            may leave a whole stack out (text without an image, a decoding step), but not all.
        others: whether the model has further stacks, of which no block is hooked: a pass may
            consist of those.

    Yields:
        What a hook calls with its block's number and the module that called it.

    Raises:
        UnsupportedModelError: in the forward pass, a hook was not called, or a copy called it. In
            training mode a block may be skipped (layer drop), but not all of them.
    """
    called: dict[int, set[int]] = defaultdict(set)  # by thread
    entered: dict[int, set[int]] = defaultdict(set)

    def note(number: int, module: nn.Module) -> None:
        if module is not hooked[number][1]:
            raise UnsupportedModelError(_COPIED)
        called[threading.get_ident()].add(number)

    def enter(number: int) -> Callable[..., None]:
        return lambda module, args: entered[threading.get_ident()].add(number)

    def begin(module: nn.Module, args: Any) -> None:
        called[threading.get_ident()].clear()
        entered[threading.get_ident()].clear()

    def end(module: nn.Module, args: Any, output: Any) -> None:
        seen = called[threading.get_ident()]
        missed = [number for number in hooked if number not in seen and number not in replayed]
        if stacks and (seen or others):
            ran = {stacks[number][0] for number in (*seen, *entered[threading.get_ident()])}
            missed = [number for number in missed if stacks[number][0] in ran]
        if missed and not (module.training and seen):
            raise UnsupportedModelError(
                f"this {type(module).__name__} computed block {missed[0]}"
                f" ({hooked[missed[0]][0]}) without calling its hooks, so masks and scores would"
                " be wrong: give the plain model, without compiled or traced modules, CUDA graphs"
                " or code that skips the output projection"
            )

    with ExitStack() as stack:
        if hooked:
            stack.enter_context(uncompiled())
        for model in models if hooked else ():
            stack.callback(model.register_forward_pre_hook(begin).remove)
            stack.callback(model.register_forward_hook(end).remove)
        for number, (_, attention) in (stacks or {}).items():
            stack.callback(attention.register_forward_pre_hook(enter(number)).remove)
        yield note


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Put models into eval mode; each module has its own mode back afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training
