"""The architecture record: where the heads of a model type are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from deadhead.display import Brief
from deadhead.errors import UnsupportedModelError
from deadhead.models.architectures.layouts import Layout, separate
from deadhead.models.registry import Registry

Headless = Callable[[nn.Module, Tensor, tuple[Any, ...]], Tensor]


def project_nothing(output: nn.Module, hidden: Tensor) -> Tensor:
    """Return what an output projection makes of no heads at all: its bias, or zeros."""
    bias = getattr(output, "bias", None)
    zeros = hidden.new_zeros(*hidden.shape[:-1], _width(output))
    return zeros if bias is None else zeros + bias


def _width(output: nn.Module) -> int:
    return int(getattr(output, "out_features", None) or getattr(output, "nf", 0))


@dataclass(frozen=True, repr=False)
class Architecture(Brief):
    """Where the heads of one model type are. All paths are dotted.

    Attributes:
        model_type: `config.model_type`, or the class name of a model that has no config.
        blocks: path from the base model to the blocks, `*` for every child: `encoder.layer.*`.
        attention: path from a block to the module that attends.
        query, key, value: paths from a block to the projections; one path if they are fused.
        output: path from a block to the output projection. Heads are hooked at its input.
        head_dim: attribute of the attention module with the features per head.
        layout: which output features of the projections belong to which head.
        shrink: attributes of the attention module to set after a cut, by what they count:
            `heads`, `kv_heads`, `width` (heads * head_dim) or `groups` (heads / kv_heads).
        headless: what a block without heads returns, from (attention module,
            hidden states, further positional arguments). Default: the output's bias.
        after_cut: called with (attention module, original indices of the kept heads) to update
            anything else that belongs to a head, e.g. ALiBi slopes.
        slopes: whether each head has an ALiBi slope, so that two heads with the same weights still
            compute different outputs.
        maps: `interface` if the model takes its attention from transformers' AttentionInterface,
            `output` if the attention module returns (output, maps) whatever the backend, `none` if
            it returns its output alone.
        refuse: returns why a config cannot be handled, or None.
    """

    model_type: str
    blocks: str
    attention: str
    query: str
    key: str
    value: str
    output: str
    head_dim: str = "head_dim"
    layout: Layout = separate
    shrink: Mapping[str, str] = field(default_factory=dict)
    headless: Headless | None = None
    after_cut: Callable[[nn.Module, tuple[int, ...]], None] | None = None
    slopes: bool = False
    maps: str = "interface"
    refuse: Callable[[Any], str | None] = lambda config: None

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one projection."""
        return self.query == self.key


_MODULES = {
    "encoders": ("albert", "bert", "distilbert", "electra", "roberta", "xlm-roberta"),
    "decoders": ("llama", "mistral", "opt", "qwen2", "qwen3"),
    "fused": ("bloom", "gpt2", "gpt_neox"),
}
ARCHITECTURES: Registry[Architecture] = Registry(
    "model type",
    {name: f"{__package__}.{module}" for module, names in _MODULES.items() for name in names},
)


def register_architecture(*records: Architecture) -> None:
    """Make model types known; a second record for the same type replaces the first."""
    for record in records:
        ARCHITECTURES.register(record.model_type, record)


def model_type_of(model: nn.Module) -> str:
    """Return the name under which a model's record is looked up."""
    return getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__


def architecture_of(model: nn.Module) -> Architecture:
    """Look up the record of a model.

    Raises:
        UnsupportedModelError: there is none; the message shows the record to fill in.
    """
    return architecture_named(model_type_of(model))


def architecture_named(name: str) -> Architecture:
    """Look up the record of a model type.

    Raises:
        UnsupportedModelError: there is none; the message shows the record to fill in.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise UnsupportedModelError(
        f"model type {name!r} is not known; known: {', '.join(ARCHITECTURES)};"
        f" register it: register_architecture(Architecture(model_type={name!r},"
        ' blocks="PATH.TO.LAYERS.*", attention="self_attn", query="self_attn.q_proj",'
        ' key="self_attn.k_proj", value="self_attn.v_proj", output="self_attn.o_proj"))'
    )
