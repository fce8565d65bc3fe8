"""A cut model as an ordinary one of transformers: smaller in every layer alike, or with zeros."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deadhead.checkpoints.save import save_model
from deadhead.errors import UnsupportedModelError
from deadhead.exports.formats import FORMATS, Format
from deadhead.models.blocks import Block, is_conv1d
from deadhead.models.heads import HeadModel
from deadhead.surgery.slicing import Cut, columns_kept, rows_kept, units_kept

# options of configs that give the output projection a bias, of queries, keys and values too
BIAS_OPTIONS = ("attention_bias", "attention_out_bias")
PAD_IT = "export it as 'padded', or keep the checkpoint as it is, which loads after import deadhead"


@torch.no_grad()
def padded(model: nn.Module) -> PreTrainedModel:
    """Put zeros where heads have been removed: the model has all its heads again, these masked.

    It computes what the cut model computes, loads everywhere, and saves neither memory nor time.

    Args:
        model: a cut model; stays as it is.

    Cost: a second model in memory, as large as before the cut.

    Raises:
        UnsupportedModelError: the cut model holds what the uncut architecture has no place for.
    """
    view = HeadModel(model)
    dense = _plain(view, _config_of(view))
    copied = _copy_equal_(dense, view.model)
    for block, whole in zip(view.blocks, HeadModel(dense).blocks, strict=True):
        copied |= _fill_(whole, block)
    _check_complete(view, dense, copied)
    return dense


@torch.no_grad()
def uniform(model: nn.Module) -> PreTrainedModel:
    """Make an ordinary model of a cut one whose blocks have the same number of heads.

    Args:
        model: the cut model; stays as it is.

    Cost: a second model in memory, as large as the cut one.

    Raises:
        UnsupportedModelError: blocks differ, or the architecture ties the size of a head to their
            number; says which.
    """
    view = HeadModel(model)
    counts = {(b.n_heads, b.n_kv_heads, b.head_dim) for b in view.blocks}
    if len(counts) > 1:
        heads = ", ".join(sorted({f"{h} with {kv} key/value heads" for h, kv, _ in counts}))
        raise UnsupportedModelError(
            f"the blocks of this model differ in their heads ({heads}), which no plain config can"
            f" say; prune with scope='per_block' (--scope per_block), or {PAD_IT}"
        )
    [(n_heads, n_kv_heads, head_dim)] = counts
    record, *others = view.records
    if others or record.slopes:
        why = "ALiBi slopes that depend on their number" if record.slopes else "several stacks"
        raise UnsupportedModelError(
            f"heads of a {record.model_type!r} have {why}, so fewer of them cannot be an"
            f" ordinary model; {PAD_IT}"
        )
    config = _config_of(view)
    inner = config.get_text_config()
    inner.num_attention_heads = n_heads
    inner.head_dim = head_dim  # read by many types that do not declare it
    if hasattr(inner, "num_key_value_heads"):
        inner.num_key_value_heads = n_kv_heads
    made = _plain(view, config)
    _check_complete(view, made, _copy_equal_(made, view.model))
    return made


def _config_of(view: HeadModel) -> Any:
    """Return the config of the uncut model, with biases where a repair has added some."""
    config: Any = copy.deepcopy(view.model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if any(block.original.output_bias for block in view.blocks):
        inner = config.get_text_config()
        option = next((n for n in BIAS_OPTIONS if getattr(inner, n, None) is False), None)
        if option is None:
            raise UnsupportedModelError(
                f"the repair gave output projections a bias, which a {config.model_type!r} has no"
                " place for; prune with --repair least_squares, which adds none, or keep the"
                " checkpoint as it is, which loads after import deadhead"
            )
        setattr(inner, option, True)
    return config


def _plain(view: HeadModel, config: Any) -> PreTrainedModel:
    """Build an ordinary model of a config, of the class, type and place of the view's model."""
    kind: Any = type(view.model)
    name = config._attn_implementation
    try:
        type(config).from_dict(config.to_dict())  # checks itself
        made = kind._from_config(config, dtype=view.model.dtype, attn_implementation=name)
    except Exception as error:  # each type has its own way to refuse sizes
        reason = " ".join(str(error.__cause__ or error).split())
        raise UnsupportedModelError(
            f"transformers builds no {config.model_type!r} with these heads ({reason:.200});"
            f" {PAD_IT}"
        ) from error
    config = getattr(view.model, "generation_config", None)
    if config is not None:
        made.generation_config = copy.deepcopy(config)
    return made.to(view.device).eval()


def _copy_equal_(into: nn.Module, model: nn.Module) -> set[int]:
    """Copy the tensors of equal name and shape, and make the others zero; return those copied."""
    values = model.state_dict()
    copied = set()
    for name, tensor in into.state_dict(keep_vars=True).items():
        if name in values and values[name].shape == tensor.shape:
            tensor.copy_(values[name])
            copied.add(id(tensor))
        else:
            tensor.zero_()
    return copied


def _fill_(whole: Block, block: Block) -> set[int]:
    """Put the slices of a cut block where they were in the uncut one; return the tensors filled."""
    cut = Cut(block.original.heads, block.original.kv_heads)
    filled = set()
    for tensor, other, dim, index in _slices(whole, block, cut):
        index = index.to(tensor.device)
        tensor.index_copy_(dim, index, other)
        if not torch.equal(tensor.index_select(dim, index), other):
            raise UnsupportedModelError(
                f"block {whole.name} holds copies of a key/value head that are no longer equal,"
                " which the uncut model has no place for; keep the checkpoint as it is, which loads"
                " after import deadhead"
            )
        filled.add(id(tensor))
    return filled


def _slices(whole: Block, block: Block, cut: Cut) -> Iterator[tuple[Tensor, Tensor, int, Tensor]]:
    """Yield (tensor of the whole block, of the cut one, dimension, indices) where they differ."""
    pairs: list[tuple[Any, Any, int, Tensor]] = []
    for module, other in zip(whole.inputs, block.inputs, strict=True):
        index = rows_kept(whole, cut, module)
        pairs.append((module.weight, other.weight, 1 if is_conv1d(module) else 0, index))
        if other.bias is not None:
            pairs.append((module.bias, other.bias, 0, index))
    for rows, other in zip(whole.rows, block.rows, strict=True):
        pairs.append((rows.tensor, other.tensor, rows.of.dim, units_kept(whole, cut, rows)))
    dim = 0 if is_conv1d(whole.output) else 1
    pairs.append((whole.output.weight, block.output.weight, dim, columns_kept(whole, cut)))
    yield from (pair for pair in pairs if pair[0].shape != pair[1].shape)


def _check_complete(view: HeadModel, made: nn.Module, filled: set[int]) -> None:
    """Refuse a model that lacks a tensor of the cut one, or has one that nothing was put into."""
    tensors = made.state_dict(keep_vars=True)
    biases = {f"{path}.bias" for path in _added(view, made)}
    wrong = [n for n, tensor in tensors.items() if id(tensor) not in filled and n not in biases]
    wrong += [name for name in view.model.state_dict() if name not in tensors]
    if wrong:
        raise UnsupportedModelError(
            f"a plain {type(view.model).__name__} has another shape or name for {wrong[0]!r}"
            f" ({len(wrong)} tensors); {PAD_IT}"
        )


def _added(view: HeadModel, made: nn.Module) -> set[str]:
    """Return the paths of projections that have a bias only because the config gives one to all."""
    known = view.model.state_dict()
    modules = (
        module for block in HeadModel(made).blocks for module in (*block.inputs, block.output)
    )
    names = {id(module): name for name, module in made.named_modules()}
    return {names[id(m)] for m in modules if f"{names[id(m)]}.bias" not in known}


def _write_padded(model: Any, tokenizer: Any, folder: Path) -> None:
    save_model(padded(model), tokenizer, folder)


def _write_uniform(model: Any, tokenizer: Any, folder: Path) -> None:
    save_model(uniform(model), tokenizer, folder)


FORMATS.register(
    "padded",
    Format(
        _write_padded,
        "Zeros stand where heads were removed: same outputs, no memory and no time saved.",
    ),
)
FORMATS.register(
    "uniform",
    Format(_write_uniform, "Every layer has the same number of heads, which its config says."),
)
