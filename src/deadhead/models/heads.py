"""A model seen as blocks x heads, with the one seam where heads can be gated or watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.errors import HeadError, UnsupportedModelError
from deadhead.models.architectures import Architecture, HeadCounts, architecture_of
from deadhead.types import Head, HeadMask

HeadFn = Callable[[int, Tensor], Tensor | None]


@dataclass(frozen=True)
class BlockHeads:
    """Which original heads one block holds; kept on its attention module once it has been cut.

    Attributes:
        n_heads: original number of query heads.
        n_kv_heads: original number of key/value heads.
        heads: original indices of the query heads there now, in order.
        kv_heads: original index of the key/value head in each slot there now, in order.
        slopes: original index whose ALiBi slope each head has; empty: each its own.
        output_bias: whether a repair gave the output projection a bias that its model lacks.
    """

    n_heads: int
    n_kv_heads: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    slopes: tuple[int, ...] = ()
    output_bias: bool = False


@dataclass(frozen=True)
class Block:
    """One attention block.

    Attributes:
        name: dotted path in the model.
        attention: the module that attends.
        query, key, value, output: the projections; query, key, value may be one and the same.
        shape: heads, key/value heads and features per head, as the weights are now.
        held: which original heads those are.
    """

    name: str
    attention: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module
    shape: HeadCounts
    held: BlockHeads

    @property
    def n_heads(self) -> int:
        """Query heads there now."""
        return self.shape.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads there now."""
        return self.shape.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Features per head."""
        return self.shape.head_dim

    def position(self, index: int) -> int:
        """Return where the head of an original index sits in the weights now.

        Raises:
            HeadError: that head has been cut, or never was there.
        """
        if index not in self.held.heads:
            raise HeadError(f"block {self.name} has no head {index}; it holds {self.held.heads}")
        return self.held.heads.index(index)


class HeadModel:
    """View a model as blocks x heads.

    The view changes nothing: hooks are there only inside the context managers.

    Attributes:
        model: the model that was given, untouched.
        architecture: its record.
        blocks: one `Block` per physical attention block (ALBERT: per shared layer).

    Raises:
        UnsupportedModelError: the model type has no record, or this config cannot be handled.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
        >>> model = BertModel(config)
        >>> HeadModel(model).mask.counts
        (4, 4)
    """

    def __init__(self, model: nn.Module):
        self.model = model
        if hasattr(model, "_orig_mod"):
            raise UnsupportedModelError(
                "a model that torch.compile has compiled ignores hooks; give the model itself"
                " (model._orig_mod) and compile it afterwards"
            )
        self.architecture: Architecture = architecture_of(model)
        config = getattr(model, "config", None)
        reason = self.architecture.refuse(config) or _quantised(config)
        if reason:
            raise UnsupportedModelError(f"cannot prune this {type(model).__name__}: {reason}")
        self.refresh()

    def refresh(self) -> None:
        """Read the blocks again, after surgery; correct a config that claims another cut."""
        from deadhead.models.manifest import correct_config  # it imports this file

        base = getattr(self.model, "base_model", self.model)
        prefix = "" if base is self.model else f"{getattr(self.model, 'base_model_prefix', '')}."
        found = _expand(base, self.architecture.blocks)
        self.blocks = tuple(_block(self.architecture, prefix + p, m) for p, m in found)
        correct_config(self)

    @property
    def mask(self) -> HeadMask:
        """The heads that the weights still hold."""
        return HeadMask.of(
            [i in block.held.heads for i in range(block.held.n_heads)] for block in self.blocks
        )

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        return next(self.model.parameters()).device

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Put the model into eval mode with frozen parameters; give back every flag as it was."""
        training = [(m, m.training) for m in self.model.modules()]
        frozen = [(p, p.requires_grad) for p in self.model.parameters()]
        try:
            self.model.eval()
            for parameter, _ in frozen:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, flag in training:
                module.training = flag
            for parameter, flag in frozen:
                parameter.requires_grad_(flag)

    def kv_bytes_per_token(self) -> int:
        """Return the bytes of key/value cache that one token takes. Meaningful for decoders."""
        size = next(self.model.parameters()).element_size()
        return sum(2 * b.n_kv_heads * b.head_dim * size for b in self.blocks)

    @contextmanager
    def hook_heads(self, fn: HeadFn) -> Iterator[None]:
        """Call `fn(block, z)` on the output of all heads of a block, before they are projected.

        Shape: `z` is (batch, tokens, heads there now, head_dim). What `fn` returns takes its place;
        None leaves it. Blocks that have lost every head are not called. Shared blocks (ALBERT)
        are called once per application. The hooks go when the context is left, however it is left.
        """

        def make(index: int, block: Block) -> Callable[..., Any]:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
                flat = args[0]
                z = flat.view(*flat.shape[:-1], block.n_heads, block.head_dim)
                new = fn(index, z)
                return None if new is None else (new.reshape(flat.shape), *args[1:])

            return hook

        with ExitStack() as stack:
            for index, block in enumerate(self.blocks):
                if block.n_heads:
                    handle = block.output.register_forward_pre_hook(make(index, block))
                    stack.callback(handle.remove)
            yield

    @contextmanager
    def gated(self, gates: Sequence[Tensor]) -> Iterator[None]:
        """Multiply head outputs by gates.

        Shape: one tensor per block, (heads there now,) or (batch, heads there now).
        """

        def gate(index: int, z: Tensor) -> Tensor:
            g = gates[index].to(z.dtype)
            return z * (g[:, None, :, None] if g.dim() == 2 else g[:, None])

        with self.hook_heads(gate):
            yield

    def head_weights(self, head: Head) -> dict[str, Tensor]:
        """Return one head's slices of the weights, as views of what the model holds now.

        Shape: `query`, `key`, `value`: (head_dim, hidden); `output`: (hidden, head_dim);
        `*_bias`: (head_dim,) where the projection has one. With shared key/value heads, `key`
        and `value` are those of the head's group.

        Raises:
            HeadError: the model does not hold the head.
        """
        self.mask.keeps(head)
        block = self.blocks[head.block]
        position = block.position(head.index)
        slices: dict[str, Tensor] = {}
        for part in ("query", "key", "value"):
            at = position if part == "query" else position // block.shape.group_size
            first = self.architecture.layout(part, at, block.shape)
            module, rows = getattr(block, part), slice(first, first + block.head_dim)
            slices[part] = output_rows(module)[rows]
            if module.bias is not None:
                slices[f"{part}_bias"] = module.bias[rows]
        start = position * block.head_dim
        columns = output_rows(block.output)[:, start : start + block.head_dim]
        return {**slices, "output": columns}


def _quantised(config: Any) -> str | None:
    entry = getattr(config, "quantization_config", None)
    if entry is None:
        return None
    get = entry.get if isinstance(entry, dict) else lambda name: getattr(entry, name, None)
    method = get("quant_method")
    if method == "deadhead":
        return None
    return f"its weights are quantised ({method}); prune the full-precision model, then quantise"


def output_rows(module: Any) -> Tensor:
    """Return a projection's weight as (output features, input features), also for Conv1D."""
    return module.weight.t() if is_conv1d(module) else module.weight


def is_conv1d(module: nn.Module) -> bool:
    """Whether a projection stores its weight transposed, as GPT-2's Conv1D does."""
    return hasattr(module, "nf")


def _expand(root: nn.Module, pattern: str) -> list[tuple[str, nn.Module]]:
    found = [("", root)]
    for name in pattern.split("."):
        found = [
            (f"{path}.{child}".lstrip("."), module)
            for path, parent in found
            for child, module in _children(parent, name)
        ]
    return found


def _children(parent: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    return list(parent.named_children()) if name == "*" else [(name, parent.get_submodule(name))]


def _block(architecture: Architecture, name: str, module: nn.Module) -> Block:
    attention = module.get_submodule(architecture.attention)
    query, key, value, output = (
        module.get_submodule(path)
        for path in (
            architecture.query,
            architecture.key,
            architecture.value,
            architecture.output,
        )
    )
    head_dim = int(getattr(attention, architecture.head_dim))
    n_heads = output_rows(output).shape[1] // head_dim
    n_kv_heads = n_heads if architecture.fused else output_rows(key).shape[0] // head_dim
    held = getattr(attention, "deadhead_heads", None) or BlockHeads(
        n_heads, n_kv_heads, tuple(range(n_heads)), tuple(range(n_kv_heads))
    )
    shape = HeadCounts(n_heads, n_kv_heads, head_dim)
    return Block(name, attention, query, key, value, output, shape, held)
