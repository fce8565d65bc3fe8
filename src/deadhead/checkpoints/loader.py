"""The loader that transformers finds under `quant_method: "deadhead"`.

transformers builds the model on the meta device, we cut the meta model to the manifest's shapes,
and the weights load as they are. Registering is all that importing deadhead does to transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer

from deadhead.checkpoints.verify import check_shapes
from deadhead.errors import CheckpointError
from deadhead.models.heads import HeadModel
from deadhead.surgery.manifest import QUANT_METHOD, DeadheadConfig, record_in_config
from deadhead.surgery.output_bias import add_output_bias_
from deadhead.surgery.remove import cut_
from deadhead.surgery.slicing import Cut
from deadhead.surgery.slopes import set_slopes_


class DeadheadLoader(HfQuantizer):
    """Cut the meta model to what the checkpoint holds. Nothing is quantised."""

    requires_calibration = True  # a plain model becomes one by pruning, not by loading
    quantization_config: DeadheadConfig

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        cut_to_manifest_(model, self.quantization_config)
        if checkpoint_files:
            check_shapes(model, checkpoint_files)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Leave an ordinary model behind: it trains, casts and saves like any other."""
        record_in_config(HeadModel(model))
        for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
            model.__dict__.pop(attribute, None)
        for module in model.modules():
            config = getattr(module, "config", None)
            if config is not None and getattr(config, "_is_quantized", False):
                del config._is_quantized
        return model

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Cut models are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """Cut models train like any other."""
        return True


def cut_to_manifest_(model: nn.Module, manifest: DeadheadConfig) -> None:
    """Cut an uncut model to the shapes that a manifest lists.

    Raises:
        CheckpointError: the manifest is for another model.
    """
    view = HeadModel(model)
    for number, held in manifest.held().items():
        if number >= len(view.blocks):
            raise CheckpointError(
                f"the deadhead entry of config.json lists block {number}, the model has"
                f" {len(view.blocks)} blocks; take config.json from where it was written"
            )
        block = view.blocks[number]
        if (held.n_heads, held.n_kv_heads) != (block.n_heads, block.n_kv_heads):
            raise CheckpointError(
                f"block {number} had {held.n_heads} heads and {held.n_kv_heads} key/value heads"
                f" by the deadhead entry of config.json, {block.n_heads} and {block.n_kv_heads} by"
                " the rest of it; take config.json from where it was written"
            )
        head_dim = manifest.blocks[str(number)].get("head_dim")
        if head_dim != block.head_dim:
            raise CheckpointError(
                f"block {number} has heads of {head_dim} features by the deadhead entry of"
                f" config.json, {block.head_dim} by the rest of it; take config.json from where it"
                " was written"
            )
        cut_(block, view.architecture, Cut(held.heads, held.kv_heads))
        if held.output_bias:
            add_output_bias_(view.blocks[number])
        if held.slopes:
            set_slopes_(block.attention, view.architecture, held, held.slopes)


def register_loader() -> None:
    """Tell transformers about the loader; a second call changes nothing."""
    if QUANT_METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(QUANT_METHOD)(DeadheadConfig)
    if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(QUANT_METHOD)(DeadheadLoader)
