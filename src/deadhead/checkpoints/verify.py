"""Do a checkpoint's weights fit the model that its config describes? Reads headers only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from deadhead.errors import CheckpointError
from deadhead.files import read_json
from deadhead.models.architectures import records_of
from deadhead.models.blocks import Block, OriginalHeads
from deadhead.models.heads import HeadModel

Shape = tuple[int, ...]
Tensors = dict[str, Shape | None]

SAME_CHECKPOINT = "take both files from the same checkpoint"


def shapes_in(files: Sequence[str | Path]) -> dict[str, Shape]:
    """Read the shape of every tensor from safetensors headers.

    Raises:
        CheckpointError: a file is missing, truncated or not safetensors.
    """
    shapes: dict[str, Shape] = {}
    for file in map(Path, files):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file.name!r} is not a whole safetensors file ({error});"
                " copy it again from where it was written"
            ) from error
    return shapes


def tensors_for(model: Any, files: Sequence[str | Path]) -> Tensors:
    """Read which tensors safetensors files hold, under the names that they load by into `model`.

    transformers renames what older versions saved, adds or removes the base model's prefix, and
    puts some tensors together from several; the shape of those is None.

    Raises:
        CheckpointError: as `shapes_in`.
    """
    biases = [name for name, p in _projections(HeadModel(model)) if p is None]
    wanted = model.state_dict() | dict.fromkeys(biases, True)  # a repair may have added them
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix = model.base_model_prefix
    tensors: Tensors = {}
    for key, shape in shapes_in([f for f in files if str(f).endswith(".safetensors")]).items():
        name, source = rename_source_key(key, renamings, converters, prefix, wanted)
        if name not in wanted and key in wanted:
            name, source = key, None
        if source is None:
            tensors[name] = shape
            continue
        converter = next(c for c in converters if source in c.source_patterns)
        first, *others = converter.target_patterns
        tensors.update(dict.fromkeys((name, *(name.replace(first, o) for o in others))))
    return tensors


def holds_dense(view: HeadModel, original: Mapping[int, OriginalHeads], tensors: Tensors) -> bool:
    """Whether the weights are those of the dense model, whatever cut the manifest claims.

    Such a checkpoint is what `AutoModel.from_config` makes of a cut model's config.

    Args:
        view: the dense model, on meta.
        original: what the manifest claims.
        tensors: what the checkpoint holds.
    """
    claims_a_cut = any(
        h.output_bias or (len(h.heads), len(h.kv_heads)) != (h.n_heads, h.n_kv_heads)
        for h in original.values()
    )
    projections = _projections(view)
    return (
        claims_a_cut
        and all(tensors.get(n, ()) == tuple(p.shape) for n, p in projections if p is not None)
        and not any(n in tensors for n, p in projections if p is None)
    )


def check_heads(model: nn.Module, tensors: Tensors) -> None:
    """Compare the projections of a cut model with the tensors of its checkpoint.

    The rest of the model is transformers' to judge.

    Raises:
        CheckpointError: a tensor has another shape than the model or is missing, or an output
            projection has a bias that the model lacks.
    """
    for name, parameter in _projections(HeadModel(model)):
        if (name in tensors) == (parameter is None):
            hold, asks = ("hold", "does not ask") if parameter is None else ("lack", "asks")
            raise CheckpointError(
                f"the weights {hold} {name!r}, which config.json {asks} for; {SAME_CHECKPOINT}"
            )
        if parameter is not None:
            _check_shape(name, parameter, tensors)


def check_shapes(model: nn.Module, tensors: Tensors) -> None:
    """Compare every tensor that a model and a checkpoint have in common.

    Raises:
        CheckpointError: one has another shape in the checkpoint than in the model.
    """
    for name, tensor in model.state_dict().items():
        _check_shape(name, tensor, tensors)


def check_layers(model: nn.Module, tensors: Tensors) -> None:
    """Refuse weights of layers that the model does not use, as missing ones are refused.

    Buffers that older versions of transformers saved are no weights.

    Raises:
        CheckpointError: the weights hold a layer, or a weight inside a layer, too many.
    """
    known = model.state_dict()
    paths = "|".join(record.blocks for record in records_of(model))
    layers = f"({paths.replace('.', r'[.]').replace('*', r'[0-9]+')})"
    inside = re.compile(rf"(^|\.){layers}\..*(weight|bias)$")
    for name, shape in tensors.items():
        if name not in known and inside.search(name) and len(shape or ()) in (1, 2):
            raise CheckpointError(
                f"the weights hold {name!r}, which the model that config.json describes does not"
                f" use; {SAME_CHECKPOINT}"
            )


def _check_shape(name: str, tensor: Any, tensors: Tensors) -> None:
    shape = tensors.get(name)
    if shape is not None and shape != tuple(tensor.shape):
        raise CheckpointError(
            f"the weights hold {name!r} with shape {list(shape)}, config.json asks for"
            f" {list(tensor.shape)}; {SAME_CHECKPOINT}"
        )


def _projections(view: HeadModel) -> list[tuple[str, nn.Parameter | None]]:
    """List (name, parameter) of what heads consist of; None: a bias that is not there."""
    names = {id(module): name for name, module in view.model.named_modules()}
    parts = (part for block in view.blocks for part in _parts(block))
    return [(f"{names[id(module)]}.{kind}", getattr(module, kind)) for module, kind in parts]


def _parts(block: Block) -> Iterator[tuple[nn.Module, str]]:
    yield from ((m, "weight") for m in (*block.inputs, block.output))
    yield from ((m, "bias") for m in block.inputs if getattr(m, "bias", None) is not None)
    yield from ((rows.module, rows.name) for rows in block.rows)
    yield block.output, "bias"


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint folder that transformers reads.

    Raises:
        CheckpointError: there are none, the index is not JSON, or it names a file that is missing.
    """
    files = [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            weight_map = read_json(index, what="a weight index")["weight_map"]
            names = sorted({Path(name).name for name in weight_map.values()})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index.name!r} is not a weight index; copy it again") from error
        if not files[0].exists() and names:
            files = [folder / name for name in names]
    missing = [f.name for f in files if not (f.is_file() and f.suffix == ".safetensors")]
    if missing:
        raise CheckpointError(
            f"{folder.name!r} lacks {', '.join(missing)}; deadhead reads safetensors only (never"
            " pickles)"
        )
    return files
