"""Where the blocks of a stack are in a model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from deadhead.models.architectures import Architecture
from deadhead.models.blocks import Block, block_at


def stack_of(model: nn.Module, record: Architecture) -> list[Block]:
    """Read the blocks of one stack; none if this model does not have the stack."""
    for prefix, base in _bases(model):
        found = children_at(base, record.blocks)
        if record.some:
            found = [(path, module) for path, module in found if _has(module, record)]
        if found:
            stack = f"{record.stack} " if record.stack else ""
            return [
                block_at(record, f"{prefix}{path}", module, f"{stack}{number}")
                for number, (path, module) in enumerate(found)
            ]
    return []


def _has(block: nn.Module, record: Architecture) -> bool:
    """Whether a block has every module that a record names."""
    owners = (rows.parameter.rpartition(".")[0] for rows in (*record.rows, *record.selected))
    parts = (record.attention, record.query, record.key, record.value, record.output)
    return all(children_at(block, path) for path in (*parts, *owners) if path)


def _bases(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the models that paths may begin at: the base model, or a child that is a model.

    Some classes of transformers name their base model otherwise than their children do.
    """
    base = getattr(model, "base_model", model)
    yield "" if base is model else f"{getattr(model, 'base_model_prefix', '')}.", base
    if base is model and getattr(model, "base_model_prefix", ""):  # no head of the user's own
        for name, child in model.named_children():
            if hasattr(child, "base_model_prefix"):
                yield f"{name}.", child


def children_at(root: nn.Module, pattern: str) -> list[tuple[str, nn.Module]]:
    """List the modules at a dotted path, `*` for every child, with their paths; none if absent."""
    found = [("", root)]
    for name in pattern.split("."):
        found = [
            (f"{path}.{child}".lstrip("."), module)
            for path, parent in found
            for child, module in (
                parent.named_children() if name == "*" else [(name, getattr(parent, name, None))]
            )
            if isinstance(module, nn.Module)
        ]
    return found


def has_parts(model: nn.Module) -> bool:
    """Whether a pass may leave a stack out: a decoding step the encoder, a text the image tower."""
    config = getattr(model, "config", None)
    return bool(getattr(config, "is_encoder_decoder", False) or getattr(config, "sub_configs", {}))
