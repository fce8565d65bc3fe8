"""Random inputs for the arguments of a model's forward, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SAMPLES, TOKENS, DECODER_TOKENS, GRID, WAVE = 2, 7, 5, 4, 4000
Shape = tuple[int, ...]


class Inputs:
    """Makes inputs for one module: two samples, seven tokens, no padding, always the same.

    Attributes:
        config: config of the module.
        dtype: type of floating inputs.
        variants: index of the shape to use, for arguments that models expect in several shapes.
        grids: whether images come as rows of patches, with a grid for each image.
        lengths: number of placeholders per sample, by kind (`image`, `video`, `audio`).
    """

    def __init__(self, config: Any, dtype: torch.dtype, grids: bool = False) -> None:
        self.config = config
        self.dtype = dtype
        self.variants: dict[str, int] = {}
        self.lengths: dict[str, int] = {}
        self.tokens = TOKENS
        self.grids = grids

    def make(self, name: str) -> Any:
        """Return a value for an argument, or None if no rule knows the name."""
        for pattern, maker in MAKERS:
            if re.fullmatch(pattern, name):
                torch_state = torch.Generator().manual_seed(sum(map(ord, name)))
                return maker(self, name, torch_state)
        return None

    def vary(self, name: str) -> bool:
        """Use the next shape of an argument; False after the last one."""
        shapes = len(self.shapes(name))
        self.variants[name] = self.variants.get(name, 0) + 1
        return self.variants[name] < shapes

    def part(self, *names: str) -> Any:
        """Return the first sub-config that exists, else the config itself."""
        for name in names:
            found = getattr(self.config, name, None)
            if found is not None and hasattr(found, "to_dict"):
                return found
        return self.config

    @property
    def vision(self) -> Any:
        """Config of the part that sees."""
        return self.part(
            "vision_config", "vit_config", "image_config", "encoder", "backbone_config"
        )

    @property
    def audio(self) -> Any:
        """Config of the part that hears."""
        return self.part("audio_config", "audio_encoder_config", "encoder_config", "encoder")

    @property
    def text(self) -> Any:
        """Config of the part that reads."""
        return self.part("text_config", "decoder", "llm_config", "thinker_config")

    def number(self, config: Any, *names: str, default: int) -> int:
        """Return the first of these attributes that is a number."""
        for name in names:
            value = getattr(config, name, None)
            value = value[-1] if isinstance(value, (list, tuple)) and value else value
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return default

    def shapes(self, name: str) -> list[Shape]:
        """Return the shapes in which models expect a floating argument, the usual one first."""
        if name.startswith(("pixel_values", "image_pixel", "high_res", "prompt_pixel")):
            return self.image_shapes("video" in name)
        if name in ("input_features", "audio_input_features", "input_values", "audio_mel"):
            shapes = self.audio_shapes()
            return shapes if "values" not in name else shapes[3:] + shapes[:3]
        return [(SAMPLES, TOKENS, self.width)]

    def image_shapes(self, video: bool) -> list[Shape]:
        """Return shapes of images or videos, the usual one first."""
        vision = self.vision
        channels = self.number(vision, "num_channels", "in_channels", "in_chans", default=3)
        side = self.number(vision, "image_size", "img_size", "crop_size", default=64)
        patch = self.number(vision, "patch_size", "spatial_patch_size", default=4)
        frames = self.number(vision, "num_frames", "frames_per_clip", default=2)
        time = self.number(vision, "temporal_patch_size", default=1)
        flat = channels * patch * patch
        shapes = [
            (SAMPLES, channels, side, side),
            (SAMPLES * GRID * GRID, flat * time),
            (SAMPLES, 1, channels, side, side),
            (SAMPLES, GRID * GRID, flat),
            (SAMPLES, frames, channels, side, side),
            (SAMPLES, channels, 64, 64),
            (SAMPLES, 2, channels, side, side),
            (SAMPLES, 1, 1, channels, side, side),
            (SAMPLES, channels, 128, 128),
            (SAMPLES, channels, 224, 224),
        ]
        if self.grids:
            shapes.insert(0, shapes.pop(1))
        return [shapes.pop(4), *shapes] if video and not self.grids else shapes

    def audio_shapes(self) -> list[Shape]:
        """Return shapes of spectrograms and waves, the usual one first."""
        audio = self.audio
        mels = self.number(
            audio, "num_mel_bins", "feature_size", "input_dim", "n_mels", "mel_dim", default=16
        )
        frames = 2 * self.number(audio, "max_source_positions", default=32)
        length = self.number(audio, "max_length", default=frames)
        return [
            (SAMPLES, mels, frames),
            (SAMPLES, frames, mels),
            (SAMPLES, 1, frames, mels),
            (SAMPLES, WAVE),
            (SAMPLES, 1, WAVE),
            (SAMPLES, length, mels),
            (SAMPLES, 7680),
            (SAMPLES, 1, 7680),
            (SAMPLES, mels, 200),
            (SAMPLES, 200, mels),
        ]

    @property
    def width(self) -> int:
        """Hidden size of the module."""
        names = ("hidden_size", "d_model", "embed_dim", "n_embd", "dim")
        return self.number(self.config, *names, default=self.number(self.text, *names, default=48))

    def special(self, kind: str) -> int | None:
        """Return the id of the placeholder token of a kind of input."""
        for config in (self.config, self.text):
            for name in (f"{kind}_token_id", f"{kind}_token_index", f"{kind}_patch_id"):
                value = getattr(config, name, None)
                if isinstance(value, int):
                    return value
        return None


def _ids(inputs: Inputs, name: str, state: torch.Generator) -> Tensor:
    vocabulary = inputs.number(inputs.text, "vocab_size", default=60)
    low, high = (10, 60) if vocabulary > 60 else (0, max(1, vocabulary))
    length = DECODER_TOKENS if name.startswith("decoder") else inputs.tokens
    ids = torch.randint(low, high, (SAMPLES, length), generator=state)
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
    side = inputs.image_shapes(False)[-1][-1] if "spatial" in name else 0
    vision = inputs.number(inputs.vision, "image_size", default=16)
    return torch.tensor([[GRID, GRID] if side else [vision, vision]] * SAMPLES)


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
    length = inputs.number(inputs.config, "context_length", default=32)
    lags = getattr(inputs.config, "lags_sequence", None) or [0]
    channels = inputs.number(inputs.config, "num_input_channels", default=1)
    shape: Shape = (SAMPLES, length + max(lags), channels)
    if name.endswith("mask"):
        return torch.ones(shape, dtype=torch.bool)
    return torch.randn(shape, generator=state, dtype=torch.float64).to(inputs.dtype)


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
    (r"(past|future)_(values|observed_mask)", _series),
    (r"(decoder_)?position_ids", _positions),
    (r".*attention_mask", _ones),
    (r".*(hidden_states?|embeds|features|embeddings)", _floats),
)
