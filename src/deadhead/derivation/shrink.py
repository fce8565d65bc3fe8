"""Small numbers for the fields of a config, by rules on the names of the fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HEADS, KV_HEADS, LAYERS, VOCABULARY, GRID = 6, 2, 2, 101, 4
STAGED_IMAGE = 64  # pixels, for models that halve the image several times

# The first pattern that occurs in a name says what the field counts.
ROLES = tuple(
    (role, re.compile(pattern))
    for role, pattern in (
        ("same", r"^_|label|dilation|interval_|^expand$|_expand$|downsample_rate|num_stages"),
        ("token", r"token_(id|index)s?$|^(pad|bos|eos|unk|mask)_(idx|index)$|tokens?_ids$"),
        ("kv_heads", r"(key_value|kv)_heads$|head_kv$|num_key_heads$|multi_query_group_num"),
        ("rotary", r"^(rotary_dim|rotary_ndims)$"),
        ("half", r"^num_pos_feats$"),
        ("filters", r"^num_filters$"),
        ("wave", r"upsample_initial_channel$"),
        ("box", r"^(coordinate|shape)_size$"),
        ("infer", r"n_window_infer$"),
        ("nope_dim", r"qk_nope_head_dim$"),
        ("rope_dim", r"qk_rope_head_dim$"),
        ("value_dim", r"(^|_)(v|value)_head_dim$"),
        ("qk_dim", r"^qk_head_dim$"),
        ("state_head_dim", r"mamba_(d_head|head_dim|headdim)$"),
        ("head_dim", r"head_(dim|size)$|^d_head$|^d_kv$|dim_head$|kv_channels$"),
        ("heads", r"heads?(_per_stage)?$"),
        ("lora", r"(q|kv|o)_lora_rank$|laurel_rank|lora_rank$"),
        ("top_k", r"experts_per_tok(en)?$|moe_top_?k$|^top_k$|^moe_k$|top_k_experts$"),
        ("one", r"shared_experts?$|topk_group$|^first_k_dense_replace$|num_dense_layers$"),
        ("groups", r"^n_groups?$|mamba_n_groups$|num_expert_groups?$|^num_groups$"),
        ("experts", r"experts$"),
        ("state", r"(d_state|state_size)$"),
        ("rank", r"time_step_rank$|dt_rank$"),
        ("moe_ffn", r"(expert|moe).*(intermediate_size|ffn_dim|ffn_hidden_size)$"),
        ("ffn", r"intermediate_(size|dim)|ffn(_hidden)?_(dim|size)$|^(d_ff|d_inner|n_inner)$"),
        ("ffn", r"mlp_(hidden_)?(dim|size)$|feed_?forward(_hidden)?_?(dim|size)?$|linear_units$"),
        ("same", r"feat_extract_layers$|adapter_layers$|postnet_layers$|num_residual_layers$"),
        ("same", r"lstm_layers$|insert_layer"),
        ("feature_layer", r"feature_layers?$|deepstack_layer|select_layer"),
        ("period", r"(period|interval|freq|frequency|every_n(_layers)?|sparse_step|pattern)$"),
        ("offset", r"(period|layer)_offset$"),
        ("layers", r"(^|_)(n|num)_([a-z]+_)*(layers?|blocks|depth)$|(^|_)layers$|depths?$"),
        ("layers", r"blocks_per_stage$|stage_num_blocks$|stage_numb_of_layers$|block_repeats$"),
        ("codebook", r"codebook_size$"),
        ("vocab", r"vocab_size|^num_embeds$|^num_embeddings$|vocabulary_size"),
        ("positions", r"position_embeddings|^n_(positions|ctx)$|max_(source|target)_positions"),
        ("positions", r"context_length$|max_seq(uence)?_len(gth)?$|max_sequence_size"),
        ("tokens", r"image_seq_len(gth)?$|num_image_tokens$|tokens_per_image$|^num_patches$"),
        ("index_topk", r"index_topk$"),
        ("grid", r"image_embedding_size$"),
        ("patch", r"^(patch_size|image_patch_size|tubelet_size)$"),
        ("image", r"^(pretrain_|max_)?(image|img)_size$|^crop_size$|^resolution$"),
        ("window", r"window|attention_chunk_size$|^local_attention$|^context_size$"),
        ("mel", r"mel_bins$|^mel_dim$|feat_per_channel$|^feature_size$|^n_mels$|^num_mels$"),
        ("kernel", r"num_conv_pos_embeddings$"),
        ("queries", r"^num_queries$|num_query_tokens$|n_latents$|num_latents$"),
        (
            "width",
            r"hidden_(size|dim)|embed(ding|s)?_(size|dim)|^(embed|emb)_dim|^d_model$|^n_embd$",
        ),
        ("width", r"proj(ection|ect|ector)?_(size|dim)|^(dim|width|hidden_channels)$"),
        ("width", r"(output|out|in|conv|stem|base|block|fpn|neck|layer)_(dim|channels?)(_list)?$"),
        ("width", r"channels(_list)?$|pooler_output_size|(enc|dec)_dim$|_features$"),
    )
)


def role_of(name: str) -> str:
    """Return what a field counts: `heads`, `width`, `layers`, ...; "" if no rule knows the name."""
    return next((role for role, pattern in ROLES if pattern.search(name)), "")


@dataclass(frozen=True)
class Sizes:
    """What one shrinking needs to know of the whole config.

    Attributes:
        head_dim: features per head; the width is six times as large.
        tokens: special token ids of the original and their small replacements.
        widths: widths of the original: hidden sizes, in all parts of the config.
        staged: widths of stages that have their own number of heads, and their replacements.
    """

    head_dim: int
    tokens: Mapping[int, int] = field(default_factory=dict)
    widths: frozenset[int] = frozenset()
    staged: Mapping[int, int] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """The hidden size."""
        return HEADS * self.head_dim

    def channels(self, number: int) -> int:
        """Return a small number of channels; equal numbers stay equal."""
        unit = self.head_dim
        if number in self.staged:
            return self.staged[number]
        return number if number <= unit else max(1, round(number / 16 / unit)) * unit


def walk(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a nested dictionary and all dictionaries inside it."""
    yield values
    for value in values.values():
        if isinstance(value, Mapping):
            yield from walk(value)


def sizes_of(values: Mapping[str, Any], head_dim: int) -> Sizes:
    """Read the special tokens and the widths of a whole config."""
    tokens: set[int] = set()
    widths: set[int] = set()
    staged: dict[int, int] = {}
    for part in walk(values):
        lists = [v for k, v in part.items() if is_numbers(v) and role_of(str(k)) == "heads"]
        for k, v in part.items():
            if lists and is_numbers(v) and role_of(str(k)) == "width" and len(v) == len(lists[0]):
                staged.update(zip(v, (h * head_dim for h in stage_heads(lists[0])), strict=True))
        for name, value in part.items():
            numbers = value if isinstance(value, list) else [value]
            numbers = [n for n in numbers if isinstance(n, int) and not isinstance(n, bool)]
            if role_of(str(name)) == "token":
                tokens.update(numbers)
            elif role_of(str(name)) == "width" and not isinstance(value, list):
                widths.update(numbers)
    large = sorted((n for n in tokens if n >= VOCABULARY - 20), reverse=True)
    renamed = {n: VOCABULARY - 1 - rank % 60 for rank, n in enumerate(large)}
    return Sizes(head_dim, renamed, frozenset(w for w in widths if w >= 64), staged)


def stage_heads(heads: list[int]) -> list[int]:
    """Return few heads for each stage, in the proportions of the original."""
    return [max(1, h * 2 // heads[0]) if heads[0] > 2 else h for h in heads]


def kept_layers(values: Mapping[str, Any], n_layers: int) -> list[int]:
    """Choose the fewest layers, at least two, in which each kind of layer occurs."""
    kinds = [v for v in values.values() if _is_per_layer(v, n_layers)]
    indexes = [set(v) for k, v in values.items() if _is_index_list(k, v, n_layers)]
    seen: set[tuple[int, str]] = set()
    kept = []
    for layer in range(n_layers):
        found = {(i, repr(kind[layer])) for i, kind in enumerate(kinds)}
        found |= {(-1 - i, str(layer in index)) for i, index in enumerate(indexes)}
        found |= {(n_layers, str(layer)) for i in _outputs(values) if i == layer + 1}
        first_dense = values.get("first_k_dense_replace")
        if isinstance(first_dense, int):
            found.add((len(kinds), str(layer < first_dense)))
        shared = values.get("num_kv_shared_layers")
        if isinstance(shared, int):
            found.add((len(kinds) + 1, str(layer >= n_layers - shared)))
        if not found <= seen:
            kept.append(layer)
            seen |= found
    rest = [layer for layer in range(n_layers) if layer not in kept]
    return sorted(kept + rest[: max(0, LAYERS - len(kept))])


def _outputs(values: Mapping[str, Any]) -> list[int]:
    return values.get("out_indices") or values.get("_out_indices") or []


def _is_per_layer(value: Any, n_layers: int) -> bool:
    return isinstance(value, list) and len(value) == n_layers and value != list(range(n_layers))


def _is_index_list(name: str, value: Any, n_layers: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and re.search(r"(indexes|indices|layers|layer_ids|_idxs?|global_attention_blocks)$", name)
        is not None
        and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
        and len(value) <= n_layers
        and sorted(set(value)) == value
        and value[0] >= 0
        and value[-1] < n_layers
    )


def with_few_layers(values: dict[str, Any]) -> dict[str, Any]:
    """Keep two layers, or one of each kind, in every field that lists or counts layers."""
    staged = {len(v) for k, v in values.items() if is_numbers(v) and role_of(str(k)) != "token"}
    counts = {
        v
        for k, v in values.items()
        if role_of(str(k)) == "layers"
        and isinstance(v, int)
        and v > 1
        and not (v < 8 and v in staged)
    }
    if not counts:
        return values
    small = dict(values)
    for count in sorted(counts):
        kept = kept_layers(values, count)
        for name, value in values.items():
            if role_of(name) != "layers" or name == "num_kv_shared_layers" or not is_count(value):
                small.update(_with_layers(name, value, count, kept, count == max(counts)))
            elif value == count:
                small[name] = len(kept)
    return small


def is_count(value: Any) -> bool:
    """Say whether a value is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def _with_layers(
    name: str, value: Any, count: int, kept: list[int], largest: bool
) -> dict[str, Any]:
    """Return the fields that change when `kept` of `count` layers stay."""
    if _is_per_layer(value, count):
        return {name: [value[layer] for layer in kept]}
    if not largest or value is None:
        return {}
    if _is_index_list(name, value, count) and "out_indices" not in name:
        return {name: [position for position, layer in enumerate(kept) if layer in value]}
    if name == "num_kv_shared_layers":
        return {name: sum(layer >= count - value for layer in kept)}
    if name == "first_k_dense_replace":
        return {name: sum(layer < value for layer in kept)}
    if name == "per_layer_config":
        return {name: _per_layer(value, kept)}
    if name.lstrip("_") == "out_indices" and value and max(value) <= count:
        mark = name.removesuffix("out_indices")
        small = [kept.index(i - 1) + 1 if i > 0 else i for i in value]
        return {
            name: small,
            f"{mark}out_features": [f"stage{i}" if i > 0 else "stem" for i in small],
            "stage_names": ["stem", *(f"stage{i + 1}" for i in range(len(kept)))],
        }
    return {}


def _per_layer(value: Mapping[Any, Any], kept: list[int]) -> dict[Any, Any]:
    text = any(isinstance(key, str) for key in value)
    width = max((len(key) for key in value if isinstance(key, str)), default=0)
    numbered = {int(key): item for key, item in value.items()}
    return {
        (str(i).zfill(width) if text else i): numbered[layer]
        for i, layer in enumerate(kept)
        if layer in numbered
    }


def is_numbers(value: Any) -> bool:
    """Say whether a value is a list of at least two numbers."""
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    )
