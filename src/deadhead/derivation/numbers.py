"""The small number of each field: heads, widths, images and all else of one part of a config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from deadhead.derivation.overrides import CONVOLUTIONS, OVERRIDES
from deadhead.derivation.shrink import (
    GRID,
    HEADS,
    KV_HEADS,
    STAGED_IMAGE,
    VOCABULARY,
    Sizes,
    is_numbers,
    role_of,
    sizes_of,
    stage_heads,
    with_few_layers,
)

SKIPPED = ("id2label", "label2id", "task_specific_params", "quantization_config")
FIXED = {
    "value_dim": 10,
    "rotary": 4,
    "box": 8,
    "infer": 16,
    "nope_dim": 8,
    "rope_dim": 4,
    "qk_dim": 12,
    "lora": 20,
    "state": 8,
    "rank": 4,
    "moe_ffn": 40,
    "ffn": 56,
    "positions": 64,
    "grid": GRID,
    "index_topk": 16,
    "wave": 64,
    "filters": 4,
    "mel": 16,
    "kernel": 8,
    "codebook": 64,
    "period": 2,
    "offset": 1,
    "feature_layer": 2,
    "queries": 9,
}  # fields whose small number depends on nothing else
MISSING = {
    "prediction_length": 4,
    "vocab_size": VOCABULARY,
    "num_key_value_heads": HEADS,
    "num_experts_per_tok": 2,
    "image_token_id": VOCABULARY - 2,
    "image_token_index": VOCABULARY - 2,
}  # fields that models need though their default is None
SECTIONS = re.compile(
    r"hunyuan_vl|qwen.*(vl|omni|3_5|4_exp)|glm.*(v|ga|image|ocr)|paddleocr|cohere_compass"
)
DEPTHS = ("depths", "num_layers", "blocks_per_stage", "stage_num_blocks", "encoder_depths")
AT_MOST = {"one": 1, "groups": 2, "experts": 4, "top_k": 2}


def shrunk(values: Mapping[str, Any], head_dim: int = 8) -> dict[str, Any]:
    """Return the dictionary of a config with small numbers, sub-configs included."""
    return _shrink(values, sizes_of(values, head_dim))


def _shrink(values: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    few = with_few_layers(dict(values))
    small: dict[str, Any] = {}
    for name, value in few.items():
        if isinstance(value, Mapping) and str(value.get("model_type")).startswith("timm_"):
            small[name] = {**CONVOLUTIONS, "out_indices": [4, 3, 2, 1][: _n_outputs(value)][::-1]}
            small["use_timm_backbone"] = False
        elif isinstance(value, Mapping) and name in SKIPPED:
            small[name] = value
        elif isinstance(value, Mapping):
            rotary = name.startswith("rope") or "mrope_section" in value or "rope_type" in value
            small[name] = _rotary(value, values, sizes) if rotary else _shrink(value, sizes)
        else:
            small[name] = _number(str(name), value, few, sizes)
    if _is_staged(values):
        _mend_stages(small, few, sizes)
    _mend_heads(small, few, sizes)
    small.update(OVERRIDES.get(str(values.get("model_type")), {}))
    return small


def _repeats_width(value: Any, part: Mapping[str, Any]) -> bool:
    scalars = {v for k, v in part.items() if role_of(str(k)) == "width" and isinstance(v, int)}
    return len(set(value)) == 1 and value[0] in scalars


def _n_outputs(values: Mapping[str, Any]) -> int:
    return min(4, len(values.get("out_indices") or [4]))


def _number(name: str, value: Any, part: Mapping[str, Any], sizes: Sizes) -> Any:
    """Return the small number, or list of numbers, of one field."""
    if name.endswith("initializer_range") or name == "init_std":
        return 0.15  # healthy signals in narrow layers
    if name == "backbone_feature_sizes":
        return [[4 * GRID, 4 * GRID], [2 * GRID, 2 * GRID], [GRID, GRID]]
    if isinstance(value, (list, tuple)):
        if is_numbers(value) and role_of(name) == "width" and _repeats_width(value, part):
            return [sizes.width] * len(value)
        return type(value)(_number(name, v, {**part, "": value}, sizes) for v in value)
    role = role_of(name)
    if value is None:
        return {"head_dim": sizes.head_dim, "prediction_length": 4, "vocab_size": VOCABULARY}.get(
            name
        )
    if role == "feature_layer" and isinstance(value, int) and value < 0:
        return max(value, -2)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return value
    listed = "" in part
    if role in FIXED:
        return min(value, FIXED[role])
    if role in AT_MOST:
        return min(value, AT_MOST[role])
    match role:
        case "token":
            return sizes.tokens.get(value, value)
        case "vocab":
            return min(value, VOCABULARY)
        case "kv_heads":
            other = name.replace("key_value", "attention")
            whole = part.get(other, _heads(part)) if other != name else _heads(part)
            whole = part.get("linear_num_value_heads") if "linear" in name else whole
            return HEADS if value == whole else KV_HEADS
        case "heads":
            return value if listed or value == 1 else HEADS
        case "head_dim":
            return _head_dim(value, part, sizes)
        case "width":
            if "channel_multiplier" in part:  # behind group norms of 32 groups
                return min(value, 32)
            if _is_convolutional(part) and name != "out_hidden_size":
                return sizes.channels(value)
            return sizes.channels(value) if listed or value < 16 else sizes.width
        case "layers":
            return min(value, 2) if listed and name in DEPTHS else value
        case "patch":
            return value if _is_staged(part) else min(value, 4)
        case "half":
            return sizes.width // 2
        case "image":
            return STAGED_IMAGE if _is_staged(part) else GRID * _patch(part)
        case "window":
            if value >= 32 and "spatial_merge_size" in part:
                return GRID * _patch(part)  # in pixels
            return min(value, 2 if _is_staged(part) and "per_stage" not in name else 4)
        case "tokens":
            return GRID**2
    return sizes.width if value in sizes.widths and value >= 128 else value


def _heads(part: Mapping[str, Any]) -> int | None:
    for name in ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads"):
        if isinstance(part.get(name), int):
            return part[name]
    return None


def _head_dim(value: int, part: Mapping[str, Any], sizes: Sizes) -> int:
    """Return a head size that differs from width / heads where the original does."""
    if value == part.get("qk_rope_head_dim"):
        return FIXED["rope_dim"]
    heads, width = _heads(part), part.get("hidden_size")
    if heads is None or width is None or heads * value == width:
        return sizes.head_dim
    return sizes.head_dim * 3 // 2


def _patch(part: Mapping[str, Any]) -> int:
    patch = part.get("patch_size", part.get("image_patch_size", 16))
    patch = patch[-1] if isinstance(patch, (list, tuple)) else patch
    return min(patch, 4) if isinstance(patch, int) else 4


def _rotary(value: Mapping[str, Any], part: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Fit the rotary parameters of a part, or those of each kind of layer, to the head size."""
    small: dict[str, Any] = {
        k: _rotary(v, part, sizes) if isinstance(v, Mapping) else v for k, v in value.items()
    }
    if any(isinstance(v, Mapping) for v in value.values()):
        return small
    head_dim = part.get("head_dim")
    half = (_head_dim(head_dim, part, sizes) if head_dim else sizes.head_dim) // 2
    if isinstance(small.get("partial_rotary_factor"), float):
        small["partial_rotary_factor"] = max(0.5, small["partial_rotary_factor"])
        half = int(half * small["partial_rotary_factor"])
    for name in ("short_factor", "long_factor"):
        if isinstance(small.get(name), list):
            small[name] = small[name][:half]
    if "mrope_section" in small or SECTIONS.search(str(part.get("model_type"))):
        n_axes = len(small.get("mrope_section") or "thw")
        small["mrope_section"] = [half // n_axes + (i < half % n_axes) for i in range(n_axes)]
    return small


def _is_staged(part: Mapping[str, Any]) -> bool:
    """Say whether a part is a stack of stages of growing width, as Swin and ResNet are."""
    return any(
        is_numbers(v) and len(v) < 8 and (k in DEPTHS or role_of(k) in ("width", "heads"))
        for k, v in part.items()
    )


def _is_convolutional(part: Mapping[str, Any]) -> bool:
    heads = any(role_of(str(k)) == "heads" and v for k, v in part.items())
    whole = {"hidden_dim", "d_model", "backbone_config"}
    return _is_staged(part) and not heads and not whole & set(part)


def _mend_stages(small: dict[str, Any], values: Mapping[str, Any], sizes: Sizes) -> None:
    """Make widths per stage multiples of heads per stage, in place."""
    lists = {k: v for k, v in values.items() if is_numbers(v) and role_of(k) == "heads"}
    for name, heads in lists.items():
        heads = stage_heads(heads)
        small[name] = heads
        for other, widths in values.items():
            if role_of(other) != "width":
                continue
            if is_numbers(widths) and len(widths) == len(heads):
                small[other] = [h * sizes.head_dim for h in heads]
                ends = {widths[0]: small[other][0], widths[-1]: small[other][-1]}
                if values.get("hidden_size") in ends:
                    small["hidden_size"] = ends[values["hidden_size"]]
            elif other in ("embed_dim", "embedding_size") and isinstance(widths, int):
                small[other] = heads[0] * sizes.head_dim
                if other == "embed_dim" and isinstance(values.get("hidden_size"), int):
                    small["hidden_size"] = small[other] * values["hidden_size"] // widths
    if not lists and isinstance(values.get("num_attention_heads"), int):
        small["num_attention_heads"] = 4 if values["num_attention_heads"] % 4 == 0 else 2


def _mend_heads(small: dict[str, Any], values: Mapping[str, Any], sizes: Sizes) -> None:
    """Keep the relations between the sizes of latent attention and of state-space layers."""
    if "qk_nope_head_dim" in small and "qk_rope_head_dim" in small:
        nope, rope = small["qk_nope_head_dim"], small["qk_rope_head_dim"]
        if isinstance(nope, int) and isinstance(rope, int) and "qk_head_dim" in small:
            small["qk_head_dim"] = nope + rope
    for heads, dim in (
        ("mamba_n_heads", "mamba_d_head"),
        ("mamba_num_heads", "mamba_head_dim"),
        ("n_mamba_heads", "mamba_headdim"),
        ("num_heads", "head_dim"),
    ):
        expand = small.get("expand", small.get("mamba_expand"))
        if isinstance(expand, int) and isinstance(small.get(dim), int) and small.get(heads):
            small[dim] = expand * sizes.width // small[heads]
    if isinstance(small.get("mamba_d_ssm"), int):
        small["mamba_d_ssm"] = 2 * sizes.width
    if "downsampling_ratios" in small and "encoder_hidden_size" in small:  # doubles at each ratio
        small["encoder_hidden_size"], small["decoder_hidden_size"] = 4, 64
    for name in ("num_local_experts", "num_experts"):  # as many experts as the token chooses
        if values.get(name) == 1:
            small[name] = 1
