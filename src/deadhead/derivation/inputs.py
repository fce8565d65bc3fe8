"""The shapes in which a module of a config expects its inputs."""

from __future__ import annotations

from typing import Any

import torch

SAMPLES, TOKENS, DECODER_TOKENS, GRID, WAVE = 2, 7, 5, 4, 4000
Shape = tuple[int, ...]


class Inputs:
    """Knows the shapes of inputs for one module: two samples, seven tokens, no padding.

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
        self.last: dict[str, int] = {}
        self.tokens = TOKENS
        self.grids = grids

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
        if name == "input_ids":
            return self.id_shapes()
        if name == "past_values":
            return self.series_shapes()
        return [(SAMPLES, TOKENS, self.cross_width if "encoder" in name else self.width)]

    def id_shapes(self) -> list[Shape]:
        """Return shapes of token ids: one row per sample, or several codebooks."""
        names = ("num_codebooks", "num_channels", "n_codebooks", "num_audio_codebooks")
        books = self.number(self.config, *names, default=0)
        rows = [(SAMPLES, self.tokens)]
        if books > 1:
            rows += [(SAMPLES * books, TOKENS), (SAMPLES, TOKENS, books), (SAMPLES, books, TOKENS)]
        return rows

    def series_shapes(self) -> list[Shape]:
        """Return shapes of time series, with channels and without."""
        length = self.number(self.config, "context_length", default=32)
        lags = getattr(self.config, "lags_sequence", None) or [0]
        channels = self.number(self.config, "num_input_channels", default=1)
        length += max(lags)
        return [(SAMPLES, length, channels), (SAMPLES, length)]

    @property
    def cross_width(self) -> int:
        """Hidden size of what a decoder attends to."""
        names = ("cross_attention_hidden_size", "encoder_hidden_size", "encoder_width")
        return self.number(self.config, *names, default=self.width)

    def image_shapes(self, video: bool) -> list[Shape]:
        """Return shapes of images or videos, the usual one first."""
        vision = self.vision
        channels = self.number(vision, "num_channels", "in_channels", "in_chans", default=3)
        side = self.number(vision, "image_size", "img_size", "crop_size", default=64)
        patch = self.number(vision, "patch_size", "spatial_patch_size", default=4)
        frames = self.number(vision, "num_frames", "frames_per_clip", default=2)
        time = self.number(vision, "temporal_patch_size", "patch_temporal", default=1)
        tiles = self.number(vision, "max_num_tiles", default=1)
        flat = channels * patch * patch
        shapes = [
            (SAMPLES, channels, side, side),
            (SAMPLES * GRID * GRID, flat * time),
            (SAMPLES, 1, channels, side, side),
            (SAMPLES, GRID * GRID, flat),
            (SAMPLES, frames, channels, side, side),
            (SAMPLES, channels, 64, 64),
            (SAMPLES, 2, channels, side, side),
            (SAMPLES, 1, tiles, channels, side, side),
            (SAMPLES * GRID * GRID, channels, patch, patch),
            (1, SAMPLES * GRID * GRID, channels, patch, patch),
            (1, channels, patch, SAMPLES * GRID * GRID * patch),
            (SAMPLES * frames, channels, side, side),
        ]
        if self.number(vision, "patch_size", default=0) == 0:  # else too many patches
            shapes += [(SAMPLES, channels, 128, 128), (SAMPLES, channels, 224, 224)]
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
            (mels, SAMPLES * frames),
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
