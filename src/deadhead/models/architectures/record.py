"""The architecture record: where the heads of a model type are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deadhead.display import Brief
from deadhead.errors import UnsupportedModelError
from deadhead.models.registry import Registry

PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class HeadCounts:
    """Current shape of one block: query heads, key/value heads, features a head."""

    n_heads: int
    n_kv_heads: int
    head_dim: int

    def count(self, part: str) -> int:
        """Return the number of heads of one part."""
        return self.n_heads if part == "query" else self.n_kv_heads

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 1


Layout = Callable[[str, int, HeadCounts], int]


def separate(part: str, index: int, shape: HeadCounts) -> int:
    """Three projections, heads one after the other (BERT, OPT, Llama)."""
    return index * shape.head_dim


def fused_per_head(part: str, index: int, shape: HeadCounts) -> int:
    """One projection `(heads, 3, head_dim)`: q, k, v of a head side by side (BLOOM, GPT-NeoX)."""
    return (3 * index + PARTS.index(part)) * shape.head_dim


def fused_by_part(part: str, index: int, shape: HeadCounts) -> int:
    """One projection `q | k | v`, each with its heads one after the other (GPT-2, Phi-3)."""
    before = {
        "query": 0,
        "key": shape.n_heads,
        "value": shape.n_heads + shape.n_kv_heads,
    }
    return (before[part] + index) * shape.head_dim


def fused_grouped(part: str, index: int, shape: HeadCounts) -> int:
    """One projection of key/value groups: the queries of a group, its key, its value (Falcon)."""
    size = shape.group_size
    if part == "query":
        return (index // size * (size + 2) + index % size) * shape.head_dim
    return (index * (size + 2) + size + PARTS.index(part) - 1) * shape.head_dim


LAYOUTS: dict[str, Layout] = {
    layout.__name__: layout for layout in (separate, fused_per_head, fused_by_part, fused_grouped)
}


def features(layout: Layout, part: str, heads: Iterable[int], shape: HeadCounts) -> torch.Tensor:
    """Return the output features of some heads of one part, head by head.

    Shape: (heads * head_dim,), int64; `heads` are positions in the current weights.
    """
    return rows_from([layout(part, h, shape) for h in heads], shape.head_dim)


def rows_from(firsts: Sequence[int], head_dim: int) -> torch.Tensor:
    """Return the features of heads that begin at some features; shape (heads * head_dim,)."""
    starts = torch.tensor(firsts, dtype=torch.long, device="cpu")  # also while a model is on meta
    return (starts[:, None] + torch.arange(head_dim, device="cpu")).reshape(-1)


Headless = Callable[[nn.Module, Tensor, tuple[Any, ...]], Tensor]


def project_nothing(output: nn.Module, hidden: Tensor) -> Tensor:
    """Return what an output projection makes of no heads at all: its bias, or zeros."""
    bias = getattr(output, "bias", None)
    zeros = hidden.new_zeros(*hidden.shape[:-1], _width(output))
    return zeros if bias is None else zeros + bias


def _width(output: nn.Module) -> int:
    return int(getattr(output, "out_features", None) or getattr(output, "nf", 0))


@dataclass(frozen=True)
class PerHead:
    """One further parameter or buffer of a block in which every head has its own slices.

    Attributes:
        parameter: dotted path from the block, e.g. `self_attn.sinks`.
        unit: whose slices they are: those of query heads, or of key/value heads.
        dim: the dimension in which heads lie one after the other.
        parts: how often all heads follow one another there (`q | k | v`: 3).
    """

    parameter: str
    unit: Literal["heads", "kv_heads"] = "heads"
    dim: int = 0
    parts: int = 1


@dataclass(frozen=True, repr=False)
class Architecture(Brief):
    """Where the heads of one stack of blocks of a model type are. All paths are dotted.

    Attributes:
        model_type: `config.model_type`, or the class name of a model that has no config.
        blocks: path from the base model to the blocks, `*` for every child: `encoder.layer.*`.
        attention: path from a block to the module that attends.
        query, key, value: paths from a block to the projections; one path if they are fused. Empty
            if a head's queries, keys and values do not have `head_dim` features each; `rows` then
            lists the parameters that belong to heads.
        output: path from a block to the output projection. Heads are hooked at its input.
        head_dim: attribute of the attention module with the features per head.
        heads: attribute of the attention module (dotted) with the number of heads, in place of
            `head_dim`.
        kv_heads: the same for key/value heads, where `key` is empty and they are fewer.
        layout: which output features of the projections belong to which head.
        rows: further parameters with slices per head: bias tables, sinks, scales.
        selected: weights of modules (norms over all heads) that stay whole, and whose output
            features are selected after a cut.
        shrink: attributes of the attention module (dotted) to set after a cut, by what they count:
            `heads`, `kv_heads`, `width` (heads * head_dim), `kv_width` or `groups` (heads /
            kv_heads). A config is copied first, so that each module has its own.
        headless: what a block without heads returns, from (attention module,
            hidden states, further positional arguments). Default: the output's bias. `sliced`: the
            module works with weights of no rows; `refused`: some head has to stay.
        after_cut: called with (attention module, original indices of the kept heads) to update
            anything else that belongs to a head, e.g. ALiBi slopes.
        slopes: whether each head has an ALiBi slope, so that two heads with the same weights still
            compute different outputs.
        maps: `interface` if the model takes its attention from transformers' AttentionInterface,
            `output` if the attention module returns (output, maps) whatever the backend, `none` if
            it returns its output alone.
        refuse: returns why a config cannot be handled, or None.
        stack: name of the stack where a model has several, e.g. `encoder`, `decoder.cross`.
        samples: which dimension of the output projection's input counts samples: 0, 1 for
            (tokens, samples, width), or -1 if they are mixed and scores per sample are refused.
        padded: whether a cut module goes on computing with all the heads it had: its projections
            return zeros for those that are gone, and what becomes of them is dropped in front of
            the output projection. For modules that reshape by the width of the model. It saves the
            weights of the heads, not their attention nor their place in a key/value cache.
        some: whether blocks that lack the attention module are skipped, as in hybrids.
        derived: whether the record was found by tracing a tiny random model, not written.
        difference: of a derived record, how far masking and removal differed in its proof, at most;
            relative, in float64.
    """

    model_type: str
    blocks: str
    attention: str
    query: str = ""
    key: str = ""
    value: str = ""
    output: str = ""
    head_dim: str = "head_dim"
    layout: Layout = separate
    shrink: Mapping[str, str] = field(default_factory=dict)
    headless: Headless | Literal["sliced", "refused"] | None = None
    after_cut: Callable[[nn.Module, tuple[int, ...]], None] | None = None
    slopes: bool = False
    maps: str = "interface"
    refuse: Callable[[Any], str | None] = lambda config: None
    heads: str = ""
    kv_heads: str = ""
    rows: tuple[PerHead, ...] = ()
    selected: tuple[PerHead, ...] = ()
    stack: str = ""
    samples: int = 0
    padded: bool = False
    some: bool = False
    derived: bool = False
    difference: float = field(default=0.0, compare=False)

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one projection."""
        return bool(self.query) and self.query == self.key


Records = tuple[Architecture, ...]

_MODULES = {
    "encoders": ("albert", "bert", "distilbert", "electra", "roberta", "xlm-roberta"),
    "decoders": ("llama", "mistral", "opt", "qwen2", "qwen3"),
    "fused": ("bloom", "gpt2", "gpt_neox"),
}
ARCHITECTURES: Registry[Records] = Registry(
    "model type",
    {name: f"{__package__}.{module}" for module, names in _MODULES.items() for name in names},
)


def register_architecture(*records: Architecture) -> None:
    """Make model types known; several records of one type in one call are its stacks.

    A later call for the same type replaces its records.
    """
    stacks: dict[str, list[Architecture]] = defaultdict(list)
    for record in records:
        stacks[record.model_type].append(record)
    for name, group in stacks.items():
        ARCHITECTURES.register(name, tuple(group))


def model_type_of(model: nn.Module) -> str:
    """Return the name under which a model's record is looked up."""
    return getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__


def records_of(model: nn.Module) -> Records:
    """Look up the records of a model, one per stack.

    Raises:
        UnsupportedModelError: there are none; the message says how to get them.
    """
    return records_named(model_type_of(model))


def origin_of(records: Records) -> str | None:
    """Say in one line that records were derived, and what was proven; None if they were written."""
    derived = [record for record in records if record.derived]
    if not derived:
        return None
    worst = max(record.difference for record in derived)
    return (
        "heads found by a derived record, proven on a tiny random model (largest difference between"
        f" masking and removing: {worst:.0e})"
    )


def has_records(name: str) -> bool:
    """Whether a model type has records: written, registered, or shipped."""
    from deadhead.models.architectures.derived import shipped_records

    return name in ARCHITECTURES or name in shipped_records()


def has_derived(name: str) -> bool:
    """Whether the records of a model type were derived, not written."""
    return has_records(name) and all(record.derived for record in records_named(name))


def records_named(name: str) -> Records:
    """Look up the records of a model type: written ones, else those that ship derived.

    Raises:
        UnsupportedModelError: there are none; the message says how to get them.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    from deadhead.models.architectures.derived import shipped_records

    shipped = shipped_records()
    if name in shipped:
        return shipped[name]
    raise UnsupportedModelError(
        f"model type {name!r:.100} has no record of where its heads are; 'deadhead check MODEL"
        " --derive' finds and proves one, and commands that load a model take --derive too; from"
        " Python deadhead.derive_record(model.config); or write one and call"
        " register_architecture(Architecture(...)), see CONTRIBUTING.md"
    )
