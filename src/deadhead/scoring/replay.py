"""Parts of a forward pass that need not be computed again, or not for every token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.data.batches import Batch, call, valid_tokens
from deadhead.models.architectures.adapters import first_
from deadhead.models.blocks import is_conv1d
from deadhead.models.heads import HeadModel

_PROJECTED = object()  # stands for what the output projection returned


class Recording:
    """What the layers and the attention of a model returned in one forward pass.

    Masking heads of block `l` and later changes nothing before the output projection of block `l`.
    `replaying` returns the recorded results there, so that a pass costs the layers from `l` on.
    Layers that are applied again later (ALBERT) are computed, and so is attention that adds to what
    its output projection returns (BLOOM): results are those of a plain pass.

    Memory: per block, the layer's output, the input of its output projection, and the attention
    maps if the attention returns them; freed with the recording.
    """

    def __init__(self, view: HeadModel, samples: int):
        self.view = view
        self.samples = samples
        self._layers: list[tuple[int, Any]] = []  # (block, what its layer returned), as called
        self._attention: dict[int, list[Any]] = {}
        self._inputs: dict[int, list[Tensor]] = {}
        self._results: dict[int, Tensor] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the one forward pass of this context."""
        with ExitStack() as stack:
            for number, block in enumerate(self.view.blocks):
                layer = self.view.model.get_submodule(block.name)
                stack.enter_context(_watched(layer, partial(self._saw_layer, number)))
                if not block.n_heads:
                    continue
                stack.enter_context(_watched(block.attention, partial(self._saw_attention, number)))
                saw_input, saw_result = partial(self._saw_input, number), self._saw_result
                before = block.output.register_forward_pre_hook(saw_input, prepend=True)
                stack.callback(before.remove)
                first_(block.output)
                after = block.output.register_forward_hook(partial(saw_result, number))
                stack.callback(after.remove)
            yield
        self._results.clear()  # only needed to recognize them

    @contextmanager
    def replaying(self, block: int, times: int, *, attention: bool = True) -> Iterator[None]:
        """Replay what does not depend on the heads of `block` and later.

        The model is to be called with the recorded samples `times` over, one copy after the other.
        Without `attention`, that of `block` is computed.
        """
        before = self._before(block)
        with self.view.replayed(before), ExitStack() as stack:
            for number, values in before.items():
                layer = self.view.model.get_submodule(self.view.blocks[number].name)
                stack.enter_context(forward_as(layer, self._replayed(values, times)))
            if attention and self._skips_attention(block):
                stub = self._replayed(self._attention[block], times, block)
                stack.enter_context(forward_as(self.view.blocks[block].attention, stub))
            yield

    @property
    def ran(self) -> set[int]:
        """The blocks that projected heads."""
        return set(self._inputs)

    @property
    def by_sample(self) -> bool:
        """Whether every block has one row of tokens per sample, and no windows of images."""
        return all(len(x) == self.samples for inputs in self._inputs.values() for x in inputs)

    @property
    def last(self) -> int | None:
        """The block whose layer was called last, and once."""
        last = self._layers[-1][0] if self._layers else None
        return last if last is not None and self._called(last) == 1 else None

    def _before(self, block: int) -> dict[int, list[Any]]:
        """Return what was returned by the layers that had done all their work before a block's."""
        called = [number for number, _ in self._layers]
        done = called.index(block) if block in called else 0
        returned: dict[int, list[Any]] = {}
        for number, value in self._layers[:done]:
            returned.setdefault(number, []).append(value)
        return {
            number: values
            for number, values in returned.items()
            if number not in called[done:] and all(map(_plain, values))
        }

    def _skips_attention(self, block: int) -> bool:
        values = self._attention.get(block, [])
        once = len(values) == len(self._inputs.get(block, [])) == 1
        return once and (_projects(values[0]) or self._projects_later(block))

    def _called(self, block: int) -> int:
        return [number for number, _ in self._layers].count(block)

    def _projects_later(self, block: int) -> bool:
        """Whether the output projection is no part of the attention module (BERT)."""
        at = self.view.blocks[block]
        inside = any(module is at.output for module in at.attention.modules())
        return not inside and _plain(self._attention[block][0])

    def _replayed(
        self, values: list[Any], times: int, block: int | None = None
    ) -> Callable[..., Any]:
        left = iter(values)

        def again(value: Any) -> Any:
            if value is _PROJECTED and block is not None:
                (z,) = self._inputs[block]
                return self.view.blocks[block].output(repeated(z, self.samples, times))
            return repeated(value, self.samples, times) if isinstance(value, Tensor) else value

        return lambda *args, **kwargs: _mapped(next(left), again)

    def _saw_layer(self, number: int, value: Any) -> None:
        self._layers.append((number, _mapped(value, _copied)))

    def _saw_attention(self, number: int, value: Any) -> None:
        result = self._results.get(number)
        self._attention.setdefault(number, []).append(
            _mapped(value, lambda x: _PROJECTED if x is result and x is not None else _copied(x))
        )

    def _saw_input(self, number: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._inputs.setdefault(number, []).append(args[0].clone())

    def _saw_result(self, number: int, module: nn.Module, args: Any, result: Tensor) -> None:
        self._results[number] = result


@contextmanager
def forward_as(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward of one module for a while."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own


def _watched(module: nn.Module, saw: Callable[[Any], None]) -> AbstractContextManager[None]:
    forward = module.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        value = forward(*args, **kwargs)
        saw(value)
        return value

    return forward_as(module, watched)


def _mapped(value: Any, fn: Callable[[Any], Any]) -> Any:
    """Apply a function to what is in tuples and lists, at any depth."""
    if type(value) in (tuple, list):
        return type(value)(_mapped(x, fn) for x in value)
    return fn(value)


def _copied(value: Any) -> Any:
    """Copy a tensor: models may go on to change it in place."""
    return value.clone() if isinstance(value, Tensor) else value


def _plain(value: Any) -> bool:
    """Whether a value can be replayed: a cache, for example, cannot."""
    if type(value) in (tuple, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, Tensor)


def _projects(value: Any) -> bool:
    """Whether attention returned what its output projection did, with nothing but maps beside."""
    first, *others = value if type(value) in (tuple, list) else (value,)
    maps = all(x is None or (isinstance(x, Tensor) and x.dim() == 4) for x in others)
    return first is _PROJECTED and maps


def repeated(value: Tensor, samples: int, times: int) -> Tensor:
    """Copy samples `times` over; what is not one row per sample is copied once."""
    if not value.dim() or len(value) != samples:
        return value.clone()
    return value.repeat(times, *[1] * (value.dim() - 1))


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in what a model or a layer returned."""
    if isinstance(value, Tensor):
        return [value]
    inside: Any = value.values() if isinstance(value, Mapping) else value
    if not isinstance(value, (Mapping, tuple, list)):
        return []
    return [x for item in inside for x in tensors_in(item)]


@dataclass(frozen=True)
class OneToken:
    """Projections whose results matter for one token of each sample alone.

    Attributes:
        modules: the projections; none: all tokens matter, or it is not known.
        place: of the token in its sample.
        tokens: in each sample.
    """

    modules: Sequence[nn.Module] = ()
    place: int = 0
    tokens: int = 0

    def among(self, tokens: int) -> OneToken:
        """Return the same end of samples of another length."""
        return replace(self, place=tokens - 1 if self.place else 0, tokens=tokens)

    @contextmanager
    def alone(self, fill: float = 0.0) -> Iterator[None]:
        """Project that token alone; the results for the others are `fill`."""
        with ExitStack() as stack:
            for module in self.modules:
                stack.enter_context(forward_as(module, self._alone(module.forward, fill)))
            yield

    def _alone(self, forward: Callable[..., Tensor], fill: float) -> Callable[..., Tensor]:
        def one(*args: Any, **kwargs: Any) -> Tensor:
            if kwargs or not self.fits(args):
                return forward(*args, **kwargs)
            (x,) = args
            result = forward(x[:, self.place])
            whole = result.new_full((len(x), self.tokens, result.shape[-1]), fill)
            whole[:, self.place] = result
            return whole

        return one

    def fits(self, args: tuple[Any, ...]) -> bool:
        """Whether a projection was given these samples' tokens side by side, and nothing else."""
        x = args[0] if len(args) == 1 else None
        return isinstance(x, Tensor) and x.dim() == 3 and x.shape[1] == self.tokens


def one_token(view: HeadModel, batch: Batch, outputs: Any, recording: Recording) -> OneToken:
    """Find the token that every prediction is read from: the first (BERT) or the last (GPT-2).

    This is tested: with NaN for all other tokens in every projection of the last layer (except keys
    and values), the model has to return the same. So a model that pools over tokens, or mixes them
    after attention, is computed whole.

    Cost: a small part of the last layer, if the model gives one prediction a sample; else nothing.
    """
    before, (samples, tokens) = tensors_in(outputs), valid_tokens(batch).shape
    last = recording.last
    by_sample = before and all(x.dim() == 2 and len(x) == samples for x in before)
    if not by_sample or tokens < 2 or last is None:
        return OneToken()
    modules = _projections(view, last)
    for place in (0, tokens - 1):
        tried = OneToken(modules, place, tokens)
        seen: dict[nn.Module, None] = {}  # in order

        def note(module: nn.Module, args: tuple[Any, ...], tried=tried, seen=seen) -> None:
            if tried.fits(args):
                seen[module] = None

        with ExitStack() as stack:
            for module in modules:
                stack.callback(module.register_forward_pre_hook(note).remove)
            stack.enter_context(tried.alone(torch.nan))
            stack.enter_context(recording.replaying(last, 1, attention=False))
            after = tensors_in(call(view.model, batch))
        pairs = zip(before, after, strict=True)
        if all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs):  # NaN is not close
            return OneToken(tuple(seen), place, tokens)
    return OneToken()


def _projections(view: HeadModel, last: int) -> list[nn.Module]:
    """Return the last layer's projections that no other part of the model shares."""
    block = view.blocks[last]
    uses = Counter(m for _, m in view.model.named_modules(remove_duplicate=False))
    return [
        module
        for module in view.model.get_submodule(block.name).modules()
        if (isinstance(module, nn.Linear) or is_conv1d(module))
        and uses[module] == 1
        and module is not block.key
        and module is not block.value
    ]
