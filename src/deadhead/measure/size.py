"""The size of a model: heads, parameters, cache bytes, operations, and what a cut saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from deadhead.display import short_count
from deadhead.errors import BudgetError
from deadhead.models.blocks import Block
from deadhead.models.heads import HeadModel

TOKENS = 512  # length of the sequence that operations are counted for

Countable = Literal["parameters", "kv_bytes", "flops"]


def parameter_count(model: nn.Module) -> int:
    """Count parameters; a tensor that is shared (tied, or a shared layer) counts once."""
    return sum(p.numel() for p in model.parameters())


def parameters_read(model: nn.Module) -> int:
    """Count the parameters that every token passes through; shared tensors once.

    That is every parameter except the tables of `nn.Embedding` modules, of which a token reads one
    row. A table that is also the weight of another module, as of a tied output head, counts.

    Not covered: a mixture of experts counts all its experts; a pooler or classifier counts though
    it sees one token per sequence; the KV cache and activations are not parameters.
    """
    read = {
        id(p): p.numel()
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for p in module.parameters(recurse=False)
    }
    return sum(read.values())


def speed_ceiling(before: nn.Module, after: nn.Module) -> float:
    """Divide the parameters read before by those read after.

    This bounds the speedup of a step that is limited by reading weights (decoding at batch 1), and
    of all linear layers. Long inputs can exceed it: the part of attention that is quadratic in the
    length has no parameters, and shrinks with the heads.
    """
    return _ratio(parameters_read(before), parameters_read(after))


def _ratio(before: int, after: int) -> float:
    return before / after if after else float("nan")


def generates(model: nn.Module) -> bool:
    """Whether a model generates token by token from a KV cache, decoders of pairs included."""
    can = getattr(model, "can_generate", None)
    return bool(hasattr(model, "generate") and can and can())


@dataclass(frozen=True)
class ModelSize:
    """How large a model is.

    Attributes:
        heads: attention heads.
        parameters: all of them.
        parameters_read: those that every token passes through, see `parameters_read`.
        kv_bytes_per_token: bytes of KV cache; None for a model without one.
    """

    heads: int
    parameters: int
    parameters_read: int
    kv_bytes_per_token: int | None


def model_size(model: nn.Module) -> ModelSize:
    """Count the heads, parameters and cache bytes of a model."""
    view = HeadModel(model)
    cache = view.kv_bytes_per_token() if generates(model) else None
    return ModelSize(view.mask.n_kept, parameter_count(model), parameters_read(model), cache)


@dataclass(frozen=True)
class CutSummary:
    """What a cut saved, from the sizes before and after it; printed as one sentence."""

    before: ModelSize
    after: ModelSize

    @property
    def ceiling(self) -> float:
        """The most that a step limited by reading weights can speed up, see `speed_ceiling`."""
        return _ratio(self.before.parameters_read, self.after.parameters_read)

    def __str__(self) -> str:
        before, after = self.before, self.after
        parts = [
            f"heads: {after.heads:,} of {before.heads:,}",
            f"params: {short_count(after.parameters)} of {short_count(before.parameters)}"
            f" ({_relative(before.parameters, after.parameters)})",
        ]
        old, new = before.kv_bytes_per_token, after.kv_bytes_per_token
        if old and new is not None:
            parts.append(f"KV bytes/token: {new:,} of {old:,} ({_relative(old, new)})")
        return " || ".join([*parts, f"speedup: at most {self.ceiling:.2f}x"])

    __repr__ = __str__


def _relative(before: int, after: int) -> str:
    return f"{after / before - 1:+.1%}" if before else "+0.0%"


def cut_summary(before: nn.Module | ModelSize, after: nn.Module | ModelSize) -> CutSummary:
    """Compare a model before and after a cut; of a cut in place, give `model_size(model)` kept."""
    sizes = [x if isinstance(x, ModelSize) else model_size(x) for x in (before, after)]
    return CutSummary(*sizes)


def count_left(view: HeadModel, of: Countable, heads: Sequence[tuple[int, int]]) -> float:
    """Count what a model would have with fewer heads, by arithmetic.

    Args:
        view: the model.
        of: `parameters` (of the whole model), `kv_bytes` (features of the cache per token) or
            `flops` (multiplications and additions per token, in sequences of 512).
        heads: per block, the (heads, key/value heads) that stay.

    Raises:
        BudgetError: the weights of a projection cannot be counted.
    """
    kept = sum(_of_block(block, of, *n) for block, n in zip(view.blocks, heads, strict=True))
    return kept + _outside_heads(view, of)


def _of_block(block: Block, of: Countable, heads: int, kv_heads: int) -> float:
    if of == "kv_bytes":
        return 2 * kv_heads * block.head_dim
    parameters = _attention_parameters(block, heads, kv_heads)
    if of == "parameters":
        return parameters
    return 2 * parameters + 4 * TOKENS * heads * block.head_dim  # the maps, and what they average


def _attention_parameters(block: Block, heads: int, kv_heads: int) -> int:
    width, kv_width = heads * block.head_dim, kv_heads * block.head_dim
    out = width * _per_feature(block.output, out=False)
    widths = {"query": width, "key": kv_width, "value": kv_width}
    named = sum(widths[p] * _per_feature(m, out=True) for p, m in block.projections.items())
    units = {"heads": (heads, block.n_heads), "kv_heads": (kv_heads, block.n_kv_heads)}
    further = ((each.tensor.numel(), *units[each.of.unit]) for each in block.rows)
    return out + named + sum(size * left // now for size, left, now in further if now)


def _outside_heads(view: HeadModel, of: Countable) -> float:
    """Return the size of everything outside attention heads."""
    if of == "kv_bytes":
        return 0.0
    ours = sum(_attention_parameters(b, b.n_heads, b.n_kv_heads) for b in view.blocks)
    others = parameter_count(view.model) - ours
    if of == "parameters":
        return others
    tables = (m for m in view.model.modules() if isinstance(m, nn.Embedding))
    return 2 * max(0, others - sum(m.weight.numel() for m in tables))


def _per_feature(module: nn.Module, *, out: bool) -> int:
    """Return the parameters of one output feature (bias included) or of one input feature."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise BudgetError(
            f"the weights of a {type(module).__name__} cannot be counted; give --heads, or a"
            " latency budget"
        )
    outputs, inputs = weight.shape[::-1] if hasattr(module, "nf") else weight.shape
    return inputs + (getattr(module, "bias", None) is not None) if out else outputs
