"""The loader that transformers finds under `quant_method: "deadhead"`.

transformers builds the model on the meta device, we cut the meta model to the manifest's shapes,
and the weights load as they are. Registering is all that importing deadhead does to transformers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer

from deadhead.checkpoints.verify import check_heads, check_layers, holds_dense, tensors_for
from deadhead.errors import CheckpointError
from deadhead.models.architectures import HeadCounts, model_type_of
from deadhead.models.blocks import OriginalHeads
from deadhead.models.heads import HeadModel
from deadhead.models.manifest import COPY_IT, QUANT_METHOD, DeadheadConfig, register_carried
from deadhead.surgery.duplicate import set_slopes_
from deadhead.surgery.remove import cut_
from deadhead.surgery.slicing import Cut, add_output_bias_


class DeadheadLoader(HfQuantizer):
    """Cut the meta model to what the checkpoint holds. Nothing is quantized."""

    requires_calibration = True  # a plain model becomes one by pruning, not by loading
    quantization_config: DeadheadConfig

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        original = self.quantization_config.original()
        register_carried(model_type_of(model), self.quantization_config)
        del model.config.quantization_config  # type: ignore[union-attr] - until it is cut
        tensors = tensors_for(model, checkpoint_files or ())
        if tensors and holds_dense(HeadModel(model), original, tensors):
            logging.getLogger(__name__).warning(
                "config.json says that heads have been removed, and the weights hold all of them:"
                " they load as a dense model"
            )
            return
        cut_to_manifest_(model, self.quantization_config, original)
        if tensors:
            check_heads(model, tensors)
            check_layers(model, tensors)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Leave an ordinary model behind: it trains, casts and saves like any other."""
        for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
            model.__dict__.pop(attribute, None)
        for module in model.modules():
            config = getattr(module, "config", None)
            if config is not None and getattr(config, "_is_quantized", False):
                del config._is_quantized
        HeadModel(model)  # corrects what the config claims
        return model

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Cut models are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """Cut models train like any other."""
        return True


def cut_to_manifest_(
    model: nn.Module, manifest: DeadheadConfig, original: Mapping[int, OriginalHeads]
) -> None:
    """Cut an uncut model to the shapes that a manifest lists.

    Raises:
        CheckpointError: the manifest is for another model.
    """
    view = HeadModel(model)
    for number, heads in original.items():
        if number >= len(view.blocks):
            raise CheckpointError(
                f"the deadhead entry of config.json lists block {number}, the model has"
                f" {len(view.blocks)} blocks; {COPY_IT}"
            )
        block = view.blocks[number]
        head_dim: Any = manifest.blocks[str(number)].get("head_dim")
        if HeadCounts(heads.n_heads, heads.n_kv_heads, head_dim) != block.shape:
            raise CheckpointError(
                f"block {number} had {heads.n_heads} heads and {heads.n_kv_heads} key/value heads"
                f" of {head_dim} features by the deadhead entry of config.json, {block.n_heads} and"
                f" {block.n_kv_heads} of {block.head_dim} by the rest of it; {COPY_IT}"
            )
        stack = manifest.blocks[str(number)].get("stack", "")
        if stack != block.record.stack:
            raise CheckpointError(
                f"block {number} is of stack {stack!r} by the deadhead entry of config.json, and"
                f" of {block.record.stack!r} by the record of this model type; {COPY_IT}, or use"
                " the version of deadhead that wrote it"
            )
        cut_(block, Cut(heads.heads, heads.kv_heads))
        if heads.output_bias:
            add_output_bias_(view.blocks[number])
        if heads.slopes:
            set_slopes_(block, heads, heads.slopes)


def register_loader() -> None:
    """Tell transformers about the loader; a second call changes nothing."""
    if QUANT_METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(QUANT_METHOD)(DeadheadConfig)
    if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(QUANT_METHOD)(DeadheadLoader)
