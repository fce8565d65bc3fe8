"""One attention block: its modules, how many heads its weights hold, and which ones those are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deadhead.display import Brief
from deadhead.errors import HeadError, UnsupportedModelError
from deadhead.models.architectures import PARTS, Architecture, HeadCounts


@dataclass(frozen=True)
class OriginalHeads:
    """Which original heads a block holds; kept on its attention module once it has been cut.

    Attributes:
        n_heads: original number of query heads.
        n_kv_heads: original number of key/value heads.
        heads: original indices of the query heads in the weights now, in order.
        kv_heads: original index of the key/value head in each slot now, in order.
        slopes: original index whose ALiBi slope each head has; empty: each its own.
        output_bias: whether a repair gave the output projection a bias that its model lacks.
    """

    n_heads: int
    n_kv_heads: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    slopes: tuple[int, ...] = ()
    output_bias: bool = False


@dataclass(frozen=True, repr=False)
class Block(Brief):
    """One attention block.

    Attributes:
        name: dotted path in the model.
        attention: the module that attends.
        query, key, value, output: the projections; query, key, value may be one and the same.
        shape: heads, key/value heads and features per head, as the weights are now.
        original: which original heads those are.
    """

    name: str
    attention: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module
    shape: HeadCounts
    original: OriginalHeads

    @property
    def n_heads(self) -> int:
        """Query heads in the weights now."""
        return self.shape.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads in the weights now."""
        return self.shape.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Features per head."""
        return self.shape.head_dim

    def position(self, index: int) -> int:
        """Return where the head of an original index sits in the weights now.

        Raises:
            HeadError: that head has been removed, or never existed.
        """
        if index not in self.original.heads:
            raise HeadError(f"block {self.name} has no head {index}; it has {self.original.heads}")
        return self.original.heads.index(index)


def block_at(architecture: Architecture, name: str, module: nn.Module) -> Block:
    """Read one block. The shapes of its weights decide how many heads it has.

    Raises:
        UnsupportedModelError: a module of the record is missing or is no plain projection, or the
            weights contradict the record.
    """
    paths = (architecture.attention, *(getattr(architecture, p) for p in (*PARTS, "output")))
    try:
        attention, query, key, value, output = map(module.get_submodule, paths)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"block {name} does not match the record of {architecture.model_type!r} ({error});"
            " give the plain transformers model, or correct the record"
        ) from error
    projections = (query, key, value, output)
    for path, projection in zip(paths[1:], projections, strict=True):
        _check_plain(f"{name}.{path}", projection)
    head_dim = getattr(attention, architecture.head_dim, None)
    if not isinstance(head_dim, int) or head_dim < 1:
        raise UnsupportedModelError(
            f"{type(attention).__name__}.{architecture.head_dim} of block {name} is {head_dim!r},"
            " not the features per head; correct head_dim in the record"
        )
    shape = _shape(architecture, name, projections, head_dim)
    original = getattr(attention, "deadhead_heads", None) or OriginalHeads(
        shape.n_heads, shape.n_kv_heads, tuple(range(shape.n_heads)), tuple(range(shape.n_kv_heads))
    )
    if (len(original.heads), len(original.kv_heads)) != (shape.n_heads, shape.n_kv_heads):
        raise UnsupportedModelError(
            f"block {name} says it has heads {list(original.heads)}, and its weights have"
            f" {shape.n_heads} heads and {shape.n_kv_heads} key/value heads; load it again"
        )
    return Block(name, attention, query, key, value, output, shape, original)


def output_rows(module: Any) -> Tensor:
    """Return a projection's weight as (output features, input features), also for Conv1D."""
    return module.weight.t() if is_conv1d(module) else module.weight


def is_conv1d(module: nn.Module) -> bool:
    """Whether a projection stores its weight transposed, as GPT-2's Conv1D does."""
    return hasattr(module, "nf")


def _check_plain(path: str, module: Any) -> None:
    """Refuse a projection that is quantized, adapted, parametrized, traced or wrapped."""
    own = dict(module.named_parameters(recurse=False))
    weight = own.get("weight")
    plain = type(weight) is nn.Parameter and weight.dim() == 2 and weight.is_floating_point()
    if plain and getattr(module, "bias", own) is own.get("bias"):
        return
    raise UnsupportedModelError(
        f"{path} is a {type(module).__module__}.{type(module).__name__} without a plain weight and"
        " bias: prune first and quantize or adapt afterwards; merge adapters with"
        " merge_and_unload(), remove parametrizations and wrappers"
    )


def _shape(
    architecture: Architecture, name: str, projections: Sequence[nn.Module], head_dim: int
) -> HeadCounts:
    *inputs, output = projections
    width = output_rows(output).shape[1]
    rows = {part: output_rows(m).shape[0] for part, m in zip(PARTS, inputs, strict=True)}
    n_heads = width // head_dim
    n_kv_heads = rows["key"] // head_dim
    if architecture.fused:  # query, key and value heads in one projection
        n_kv_heads = (n_kv_heads - n_heads) // 2
    shape = HeadCounts(n_heads, n_kv_heads, head_dim)
    starts: dict[int, list[int]] = {}  # per module, the first features of its heads
    for part, module in zip(PARTS, inputs, strict=True):
        heads = range(max(0, shape.count(part)))
        firsts = [architecture.layout(part, index, shape) for index in heads]
        starts.setdefault(id(module), []).extend(firsts)
    agrees = width == n_heads * head_dim and all(
        sorted(starts[id(module)]) == list(range(0, rows[part], head_dim))
        for part, module in zip(PARTS, inputs, strict=True)
    )
    if not agrees or (n_heads % n_kv_heads if n_kv_heads > 0 else n_heads):
        raise UnsupportedModelError(
            f"the weights of block {name} contradict the record of {architecture.model_type!r}:"
            f" with heads of {head_dim} features, query, key and value have"
            f" {list(rows.values())} rows and the output projection {width} columns, which layout"
            f" {architecture.layout.__name__!r} cannot divide into heads; correct the record"
        )
    return shape
