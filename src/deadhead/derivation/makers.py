"""Random inputs for the arguments of a model's forward, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from deadhead.derivation.inputs import DECODER_TOKENS, GRID, SAMPLES, TOKENS, Inputs, Shape

WIDTHS = (
    re.compile(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)"),
    re.compile(r"normalized_shape=\[(\d+)\].*got input of size\[[\d, ]*?(\d+)\]"),
)


def make(inputs: Inputs, name: str) -> Any:
    """Return a value for an argument, the same each time, or None if no rule knows the name."""
    for pattern, maker in MAKERS:
        if re.fullmatch(pattern, name):
            return maker(inputs, name, torch.Generator().manual_seed(sum(map(ord, name))))
    return None


def widen(inputs: Inputs, message: str, names: Sequence[str]) -> bool:
    """Read from a message how wide an argument must be; False if it does not say."""
    found = WIDTHS[0].search(message) or WIDTHS[1].search(message)
    if found is None:
        return False
    first, second = int(found[1]), int(found[2])
    given, wanted = (first, second) if "mat1" in message else (second, first)
    for name in names:
        value = make(inputs, name)
        floating = isinstance(value, Tensor) and value.is_floating_point()
        if floating and name not in inputs.last and value.shape[-1] == given:
            inputs.last[name] = wanted
            return True
    return False


def _ids(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    vocabulary = inputs.number(inputs.text, "vocab_size", default=60)
    low, high = (10, 60) if vocabulary > 60 else (0, max(1, vocabulary))
    length = DECODER_TOKENS if name.startswith("decoder") else inputs.tokens
    shape: Shape = (SAMPLES, length)
    if name == "input_ids":
        shapes = inputs.id_shapes()
        shape = shapes[min(inputs.variants.get(name, 0), len(shapes) - 1)]
    ids = torch.randint(low, high, shape, generator=state)
    if name != "input_ids" or not inputs.lengths:
        return ids
    pieces = [ids[:, :2]]
    for kind, count in inputs.lengths.items():
        special = inputs.special(kind)
        start = getattr(
            inputs.config, f"{'vision' if kind != 'audio' else kind}_start_token_id", None
        )
        if isinstance(start, int):
            pieces.append(torch.full((SAMPLES, 1), start))
        if special is not None:
            pieces.append(torch.full((SAMPLES, count), special))
    return torch.cat([*pieces, ids[:, 2:]], dim=1)


def _length(inputs: Inputs, name: str) -> int:
    if name.startswith("decoder"):
        return DECODER_TOKENS
    return int(_ids(inputs, "input_ids", torch.Generator()).shape[1])


def _floats(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    shapes = inputs.shapes(name)
    shape = shapes[min(inputs.variants.get(name, 0), len(shapes) - 1)]
    shape = (*shape[:-1], inputs.last.get(name, shape[-1]))
    return torch.randn(shape, generator=state, dtype=torch.float64).to(inputs.dtype)


def _ones(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    return torch.ones(SAMPLES, _length(inputs, name), dtype=torch.long)


def _frames_mask(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    shape = _floats(inputs, "input_features", state).shape
    mels = inputs.audio_shapes()[0][1]
    return torch.ones(SAMPLES, shape[1] if shape[-1] == mels else shape[-1], dtype=torch.long)


def _types(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    ids = _ids(inputs, "input_ids", torch.Generator())
    types = torch.zeros_like(ids)
    for number, kind in enumerate(("image", "video", "audio"), start=1):
        if name.startswith("mm") and inputs.special(kind) is not None:
            types[ids == inputs.special(kind)] = number
    return types


def _boxes(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    corners = torch.randint(0, 30, (SAMPLES, TOKENS, 2), generator=state)
    boxes = torch.cat([corners, corners + torch.randint(1, 30, corners.shape, generator=state)], -1)
    return boxes.to(inputs.dtype) / 60 if inputs.config.model_type == "bros" else boxes


def _grid(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    return torch.tensor([[1, GRID, GRID]] * SAMPLES)


def _image_sizes(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    side = inputs.number(inputs.vision, "image_size", default=16)
    side = GRID if name in ("spatial_shapes", "target_sizes") else side
    return torch.tensor([[side, side]] * SAMPLES)


def _coordinates(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    side = torch.arange(GRID)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(1, -1, 2)
    return grid.repeat(SAMPLES, 1, 1)


def _patches(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    if inputs.grids:
        return _floats(inputs, "pixel_values", state)
    return _floats(inputs, name, state)


def _patch_mask(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    shape = _floats(inputs, "pixel_values", state).shape
    keep = shape[:-1] if len(shape) == 3 else (*shape[:-3], *shape[-2:])
    return torch.ones(keep, dtype=torch.bool)


def _positions(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    return torch.arange(_length(inputs, name)).repeat(SAMPLES, 1)


def _series(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    shapes = inputs.series_shapes()
    shape = shapes[min(inputs.variants.get("past_values", 0), len(shapes) - 1)]
    if name.startswith("future"):
        shape = (SAMPLES, inputs.number(inputs.config, "prediction_length", default=4), *shape[2:])
    if name.endswith("padding"):
        return torch.zeros(shape, dtype=torch.long)
    if name.endswith("time_features"):
        shape = (*shape[:2], inputs.number(inputs.config, "num_time_features", default=0))
    if name.endswith("mask"):
        return torch.ones(shape, dtype=torch.bool)
    return torch.randn(shape, generator=state, dtype=torch.float64).to(inputs.dtype)


def _small(*shape: int | str, high: int = 1, dtype: torch.dtype | None = torch.long) -> Any:
    """Return a maker of whole numbers below `high`, or of floats if `dtype` is None."""

    def make(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
        sizes = [
            s if isinstance(s, int) else inputs.number(inputs.config, s, default=1) for s in shape
        ]
        if dtype is None:
            return torch.randn(sizes, generator=state, dtype=torch.float64).to(inputs.dtype)
        return torch.randint(0, high, sizes, generator=state) + (high > 1)

    return make


def _lengths(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    if inputs.variants.get("input_features", 0) == 0:
        inputs.variants["input_features"] = len(inputs.audio_shapes()) - 3
    return torch.full((SAMPLES,), inputs.audio_shapes()[0][-1])


def _merge_sizes(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    return torch.full((SAMPLES,), inputs.number(inputs.vision, "spatial_merge_size", default=1))


def _flat_patches(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    _, _, flat = inputs.image_shapes(False)[3]
    patches = torch.randn(SAMPLES, GRID**2, flat, generator=state, dtype=torch.float64)
    return torch.cat([_coordinates(inputs, name, state) + 1, patches], dim=-1).to(inputs.dtype)


MAKERS: tuple[tuple[str, Callable[[Inputs, str, torch.Generator], Any]], ...] = (
    (r"(.*_)?input_ids", _ids),
    (r"mm_token_type_ids|token_type_ids", _types),
    (r"pixel_values.*|image_pixel_values|high_res_pixel_values|prompt_pixel_values", _floats),
    (r"input_features|input_values|audio_mel|audio_input_features", _floats),
    (r"(image_|video_)?grid_thw", _grid),
    (r"hidden_states", _patches),
    (r"bbox", _boxes),
    (r"image_sizes|target_sizes|spatial_shapes", _image_sizes),
    (r"(pixel|image)_position_ids", _coordinates),
    (r"pixel_attention_mask|pixel_mask", _patch_mask),
    (r"(input_features|feature_attention|audio_mel)_mask|feature_attention_mask", _frames_mask),
    (r"(past|future)_(values|observed_mask|values_padding|time_features)", _series),
    (r"feature_lens|audio_feature_lengths", _lengths),
    (r"(image_|video_)?merge_sizes", _merge_sizes),
    (r"flattened_patches", _flat_patches),
    (r"aspect_ratio_ids", _small(SAMPLES, 1, high=1)),
    (r"aspect_ratio_mask", _small(SAMPLES, 1, "max_num_tiles", high=2)),
    (r"lang_ids|langs|freq|labels", _small(SAMPLES, 1)),
    (r"states", _small(SAMPLES, TOKENS, "state_dim", dtype=None)),
    (r"actions", _small(SAMPLES, TOKENS, "act_dim", dtype=None)),
    (r"rewards|returns_to_go", _small(SAMPLES, TOKENS, 1, dtype=None)),
    (r"timesteps", _small(SAMPLES, TOKENS, high=9)),
    (r"visual_feats", _small(SAMPLES, DECODER_TOKENS, "visual_feat_dim", dtype=None)),
    (r"visual_pos", _small(SAMPLES, DECODER_TOKENS, "visual_pos_dim", dtype=None)),
    (r"image_attention_mask", _small(SAMPLES, TOKENS, 1, high=2)),
    (r"(decoder_)?position_ids", _positions),
    (r".*attention_mask", _ones),
    (r"mask", _ones),
    (r"context|inputs|noise_embeds|latents|backbone_features", _floats),
    (r".*(hidden_states?|attention_states|embeds|features|embeddings|encoding|embedding)", _floats),
)
