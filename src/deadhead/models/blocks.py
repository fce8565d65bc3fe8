"""One attention block: its modules, how many heads its weights hold, and which ones those are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deadhead.display import Brief
from deadhead.errors import HeadError, UnsupportedModelError
from deadhead.models.architectures import PARTS, Architecture, HeadCounts, PerHead, rows_from


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
        head_dim: features per head, where no attribute of the attention module says it; else 0.
    """

    n_heads: int
    n_kv_heads: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    slopes: tuple[int, ...] = ()
    output_bias: bool = False
    head_dim: int = 0


@dataclass(frozen=True)
class HeadRows:
    """One further parameter or buffer of a block, found: see `PerHead`."""

    module: nn.Module
    name: str
    of: PerHead

    @property
    def tensor(self) -> Tensor:
        """The parameter or buffer."""
        return getattr(self.module, self.name)

    def rows(self, units: Sequence[int], count: int) -> Tensor:
        """Return the indices along `of.dim` of some heads out of `count` now, part by part."""
        size = self.tensor.shape[self.of.dim] // self.of.parts
        inner = size // count if count else 0
        starts = [part * size + unit * inner for part in range(self.of.parts) for unit in units]
        return rows_from(starts, inner)


@dataclass(frozen=True, repr=False)
class Block(Brief):
    """One attention block: a site, that is a row of heads in front of an output projection.

    Attributes:
        name: dotted path in the model.
        attention: the module that attends.
        projections: `query`, `key` and `value`, which may be one and the same; empty if the record
            does not name them.
        output: the output projection.
        shape: heads, key/value heads and features per head, as the weights are now.
        original: which original heads those are.
        record: the record that it was found by.
        rows: further parameters with slices per head.
        selected: weights of modules whose outputs are selected after a cut.
        label: its number in its stack, behind the stack's name where there are several.
    """

    name: str
    attention: nn.Module
    projections: Mapping[str, nn.Module]
    output: nn.Module
    shape: HeadCounts
    original: OriginalHeads
    record: Architecture
    rows: tuple[HeadRows, ...] = ()
    selected: tuple[HeadRows, ...] = ()
    label: str = ""

    @property
    def query(self) -> nn.Module:
        """The query projection."""
        return self._projection("query")

    @property
    def key(self) -> nn.Module:
        """The key projection."""
        return self._projection("key")

    @property
    def value(self) -> nn.Module:
        """The value projection."""
        return self._projection("value")

    def _projection(self, part: str) -> nn.Module:
        if part not in self.projections:
            raise UnsupportedModelError(
                f"block {self.name} of a {self.record.model_type!r} has no {part} projection with"
                f" {self.head_dim} features per head, which this needs; choose a criterion or"
                " action that looks at head outputs or their gradients (taylor, fisher, ablation)"
            )
        return self.projections[part]

    @property
    def inputs(self) -> list[nn.Module]:
        """The distinct query, key and value projections; none if the record does not name them."""
        return list({id(m): m for m in self.projections.values()}.values())

    @property
    def n_heads(self) -> int:
        """Query heads in the weights now."""
        return self.shape.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads in the weights now."""
        return self.shape.n_kv_heads

    @property
    def cached_heads(self) -> int:
        """Key/value heads that a cache holds: those that are gone too, if zeros stand for them."""
        return self.original.n_kv_heads if self.record.padded else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Features per head."""
        return self.shape.head_dim

    def heads_of(self, flat: Tensor) -> Tensor:
        """Return the output projection's input as (samples, tokens, heads now, head_dim).

        Windows of one sample follow one another along the first dimension.
        """
        if flat.dim() == 3 and self.record.samples == 1:
            flat = flat.transpose(0, 1)
        tokens = flat[:, None] if flat.dim() == 2 else flat.flatten(1, -2)
        return tokens.unflatten(-1, (self.n_heads, self.head_dim))

    def flat(self, z: Tensor, like: Tensor) -> Tensor:
        """Return what `heads_of` made of `like` in the shape of `like`."""
        if like.dim() == 3 and self.record.samples == 1:
            return z.flatten(2).transpose(0, 1)
        return z.reshape(like.shape)

    def position(self, index: int) -> int:
        """Return where the head of an original index sits in the weights now.

        Raises:
            HeadError: that head has been removed, or never existed.
        """
        if index not in self.original.heads:
            raise HeadError(f"block {self.name} has no head {index}; it has {self.original.heads}")
        return self.original.heads.index(index)


def block_at(architecture: Architecture, name: str, module: nn.Module, label: str = "") -> Block:
    """Read one block. The shapes of its weights decide how many heads it has.

    Raises:
        UnsupportedModelError: a module of the record is missing or is no plain projection, or the
            weights contradict the record.
    """
    named = [part for part in PARTS if getattr(architecture, part)]
    paths = (architecture.attention, *(getattr(architecture, p) for p in (*named, "output")))
    try:
        attention, *inputs, output = map(module.get_submodule, paths)
        rows = tuple(_rows_at(module, each) for each in architecture.rows)
        selected = tuple(_rows_at(module, each) for each in architecture.selected)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"block {name} does not match the record of {architecture.model_type!r} ({error});"
            " give the plain transformers model, or correct the record"
        ) from error
    for path, projection in zip(paths[1:], (*inputs, output), strict=True):
        _check_plain(f"{name}.{path}", projection)
    projections = dict(zip(named, inputs, strict=True))
    before: OriginalHeads | None = getattr(attention, "deadhead_heads", None)
    shape = _counts(architecture, name, attention, output, before)
    if projections:
        shape = _shape(architecture, name, [*inputs, output], shape.head_dim)
    _check_rows(name, architecture, rows, shape)
    heads, kv_heads = range(shape.n_heads), range(shape.n_kv_heads)
    original = before or OriginalHeads(
        shape.n_heads,
        shape.n_kv_heads,
        tuple(heads),
        tuple(kv_heads),
        head_dim=shape.head_dim if architecture.heads else 0,
    )
    if (len(original.heads), len(original.kv_heads)) != (shape.n_heads, shape.n_kv_heads):
        raise UnsupportedModelError(
            f"block {name} says it has heads {list(original.heads)}, and its weights have"
            f" {shape.n_heads} heads and {shape.n_kv_heads} key/value heads; load it again"
        )
    modules = (attention, projections, output)
    return Block(name, *modules, shape, original, architecture, rows, selected, label)


def attribute_at(module: Any, path: str) -> Any:
    """Return an attribute at a dotted path; None if there is none."""
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _rows_at(module: nn.Module, rows: PerHead) -> HeadRows:
    path, _, name = rows.parameter.rpartition(".")
    owner = module.get_submodule(path)
    if not isinstance(getattr(owner, name), Tensor):
        raise AttributeError(f"{rows.parameter} is no parameter")
    return HeadRows(owner, name, rows)


def _check_rows(
    name: str, architecture: Architecture, rows: Sequence[HeadRows], shape: HeadCounts
) -> None:
    for each in rows:
        units = shape.n_heads if each.of.unit == "heads" else shape.n_kv_heads
        size = each.tensor.shape[each.of.dim] if each.of.dim < each.tensor.dim() else -1
        if size % (units * each.of.parts) if units else size:
            raise UnsupportedModelError(
                f"the weights of block {name} contradict the record of"
                f" {architecture.model_type!r}: dimension {each.of.dim} of {each.of.parameter} has"
                f" {size} rows, which are not divided by {units} {each.of.unit}"
            )


def _counts(
    architecture: Architecture,
    name: str,
    attention: nn.Module,
    output: nn.Module,
    before: OriginalHeads | None,
) -> HeadCounts:
    """Count by attributes of the attention module, or by what a cut has left."""
    width = output_rows(output).shape[1]
    attribute = architecture.heads or architecture.head_dim
    number = attribute_at(attention, attribute)
    if before is not None and before.head_dim:
        number = len(before.heads) if architecture.heads else before.head_dim
    if not isinstance(number, int) or number < (before is None):
        raise UnsupportedModelError(
            f"{type(attention).__name__}.{attribute} of block {name} is {number!r}, not the"
            f" {'number of heads' if architecture.heads else 'features per head'}; correct"
            f" {'heads' if architecture.heads else 'head_dim'} in the record"
        )
    if architecture.heads:
        head_dim = before.head_dim if before is not None else width // number
        n_heads = number
    else:
        head_dim, n_heads = number, width // number
    if width != n_heads * head_dim and not architecture.query:
        raise UnsupportedModelError(
            f"the output projection of block {name} has {width} columns, which {n_heads} heads of"
            f" {head_dim} features do not fill; correct the record of {architecture.model_type!r}"
        )
    n_kv_heads = n_heads
    grouped = attribute_at(attention, "config.num_key_value_heads")
    unproven = architecture.derived and not (architecture.key or architecture.kv_heads)
    if before is None and unproven and grouped not in (None, n_heads):
        raise UnsupportedModelError(
            f"block {name} shares {grouped} key/value heads among {n_heads} heads, and the"
            f" derived record of {architecture.model_type!r} was proven without sharing; write"
            " a record for it"
        )
    if before is not None:
        n_kv_heads = len(before.kv_heads)
    elif architecture.kv_heads:
        n_kv_heads = attribute_at(attention, architecture.kv_heads)
        if not isinstance(n_kv_heads, int) or n_kv_heads < 1 or n_heads % n_kv_heads:
            raise UnsupportedModelError(
                f"{type(attention).__name__}.{architecture.kv_heads} of block {name} is"
                f" {n_kv_heads!r}, which is no number of key/value heads for {n_heads} heads;"
                " correct the record"
            )
    return HeadCounts(n_heads, n_kv_heads, head_dim)


def output_rows(module: Any) -> Tensor:
    """Return a projection's weight as (output features, input features), also for Conv1D."""
    return module.weight.t() if is_conv1d(module) else module.weight


def is_conv1d(module: nn.Module) -> bool:
    """Whether a projection stores its weight transposed, as GPT-2's Conv1D does."""
    return hasattr(getattr(module, "base_layer", module), "nf")


def _check_plain(path: str, module: Any) -> None:
    """Refuse a projection that is quantized, parametrized, traced or wrapped, but not by peft."""
    if hasattr(module, "base_layer") and hasattr(module, "active_adapters"):
        module = module.base_layer
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
    if agrees and n_kv_heads > 0 and n_heads % n_kv_heads:
        raise UnsupportedModelError(
            f"the weights of block {name} have {n_heads} heads and {n_kv_heads} key/value heads,"
            " which cannot be shared evenly; correct the numbers of heads in the config"
        )
    if not agrees or (n_kv_heads <= 0 < n_heads):
        raise UnsupportedModelError(
            f"the weights of block {name} contradict the record of {architecture.model_type!r}:"
            f" with heads of {head_dim} features, query, key and value have"
            f" {list(rows.values())} rows and the output projection {width} columns, which layout"
            f" {architecture.layout.__name__!r} cannot divide into heads; correct the record"
        )
    return shape
