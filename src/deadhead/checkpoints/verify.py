"""Do a checkpoint's weights have the shapes that its config promises? Reads headers only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from deadhead.errors import CheckpointError
from deadhead.models.heads import HeadModel


def shapes_in(files: Sequence[str | Path]) -> dict[str, tuple[int, ...]]:
    """Read the shape of every tensor from safetensors headers.

    Raises:
        CheckpointError: a file is missing, truncated or not safetensors.
    """
    shapes: dict[str, tuple[int, ...]] = {}
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


def check_shapes(model: nn.Module, files: Sequence[str | Path]) -> None:
    """Compare a model (weights may be on meta) with the tensors of its checkpoint.

    Names are matched with and without the base model's prefix, since a checkpoint may carry a head
    that the model lacks, or the other way round. Of the tensors that are missing only those of the
    heads are refused: transformers would make them up.

    Raises:
        CheckpointError: a tensor has another shape than the model, one that holds heads is
            missing, an output projection has a bias that the model lacks, or a file is not whole.
    """
    files = [f for f in files if str(f).endswith(".safetensors")]
    found = shapes_in(files)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    of_heads = {
        id(parameter)
        for block in HeadModel(model).blocks
        for module in (block.query, block.key, block.value, block.output)
        for parameter in module.parameters()
    }

    def held(name: str) -> tuple[int, ...] | None:
        return next(
            (found[n] for n in (name, name.removeprefix(prefix), prefix + name) if n in found), None
        )

    for block, name in _without_bias(model):
        if held(name) is not None:
            raise CheckpointError(
                f"the weights hold {name!r}, which config.json does not ask for (output_bias of"
                f" block {block}); take both files from the same checkpoint"
            )
    for name, parameter in model.named_parameters():
        shape = held(name)
        if shape is None and id(parameter) in of_heads and files:
            raise CheckpointError(
                f"the weights lack {name!r}, which config.json asks for;"
                " take both files from the same checkpoint"
            )
        if shape is not None and shape != tuple(parameter.shape):
            raise CheckpointError(
                f"the weights hold {name!r} with shape {list(shape)}, config.json asks for"
                f" {list(parameter.shape)}; take both files from the same checkpoint"
            )


def _without_bias(model: nn.Module) -> list[tuple[int, str]]:
    """List (block, name that a bias would have) of output projections that have none."""
    names = {id(module): name for name, module in model.named_modules()}
    outputs = enumerate(block.output for block in HeadModel(model).blocks)
    return [(n, f"{names[id(o)]}.bias") for n, o in outputs if getattr(o, "bias", None) is None]


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint folder, index read.

    Raises:
        CheckpointError: there are none, the index is not JSON, or it names a file that is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files = [folder / name for name in sorted(set(names))]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index.name!r} is not a weight index; copy it again") from error
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [f.name for f in files if not f.is_file()]
    if missing or not files:
        what = ", ".join(missing) or "model.safetensors"
        raise CheckpointError(
            f"{folder.name!r} lacks {what}; deadhead reads safetensors only (never pickles)"
        )
    return files
