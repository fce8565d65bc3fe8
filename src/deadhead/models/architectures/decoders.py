"""Decoders with separate projections: OPT, and the Llama family with grouped key/value heads."""

from __future__ import annotations

from deadhead.models.architectures.record import Architecture, register_architecture


def _llama_record(model_type: str) -> Architecture:
    return Architecture(
        model_type=model_type,
        blocks="layers.*",
        attention="self_attn",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.o_proj",
        shrink={"num_key_value_groups": "groups"},
    )


register_architecture(
    *map(_llama_record, ("llama", "mistral", "qwen2", "qwen3")),
    Architecture(
        model_type="opt",
        blocks="decoder.layers.*",
        attention="self_attn",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.out_proj",
        shrink={"num_heads": "heads"},
    ),
)
