"""Fields that the rules on names cannot know, per model type."""

from __future__ import annotations

from typing import Any

ROTARY = {"rope_type": "default", "rope_theta": 10_000.0}

# Stands in for a backbone of timm, which has no attention heads either.
CONVOLUTIONS: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}

EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}
NARROW = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.3,
    "hidden_dim": 320,
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
}

# Applied behind the rules to the part of a config that has this model type.
OVERRIDES: dict[str, dict[str, Any]] = {
    "align_vision_model": NARROW,
    "efficientnet": NARROW,
    "bamba": {"attn_layer_indices": [1]},
    "align": {"projection_dim": 80},
    "aria": {"projector_patch_to_query_dict": {16: 9}},
    "blip-2": {"image_token_index": 99},
    "blt": {"encoder_hash_byte_group_vocab": 500},
    "bros": {
        "dim_bbox_sinusoid_emb_2d": 48,
        "dim_bbox_sinusoid_emb_1d": 6,
        "dim_bbox_projection": 8,
    },
    "clap_audio_model": {
        "spec_size": 128,
        "num_mel_bins": 32,
        "patch_embeds_hidden_size": 16,
        "hidden_size": 128,
    },
    "clvp_encoder": {"num_attention_heads": 2, "hidden_size": 96, "projection_dim": 96},
    "codegen": {"n_head": 4},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": ROTARY, "sliding_attention": ROTARY}
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10_000.0}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], **EXPERTS},
    "deepseek_v2": EXPERTS,
    "dots1": EXPERTS,
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "llama4_vision_model": {"intermediate_size": 192},
    "instructblip": {"image_token_index": 99},
    "instructblipvideo": {"video_token_index": 99},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    "moonshine_streaming": {"num_key_value_heads": 6},
    "nemotron": {"num_key_value_heads": 6},
    "pegasus_x": {"block_size": 4},
    "perceiver": {"d_latents": 48, "num_self_attends_per_block": 2},
    "pix2struct_text_model": {"initializer_range": 0.15},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 40},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 12,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_embds_dim": [16, 32],
        "axial_pos_shape": [8, 8],
        "lsh_attn_chunk_length": 4,
        "local_attn_chunk_length": 4,
    },
    "sam2_hiera_det_model": {"global_attention_blocks": [4, 6]},  # no first block of a stage
    "sapiens2": {
        "num_key_value_heads_per_layer": [6, 2, 6],
        "num_key_value_attention_heads": 2,
        "num_first_full_attention_layers": 1,
        "num_last_full_attention_layers": 1,
    },
    "seggpt": {"merge_index": 0, "intermediate_hidden_state_indices": [1]},
    "step3p5": {"sliding_window": 4},
    "t5gemma2_decoder": {"dropout_rate": 0.0},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "vitpose_backbone": {"image_size": [64, 64], "patch_size": [16, 16]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 96,
        "attention_head_dim": 16,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zamba2": {"attention_hidden_size": 96, "attention_head_dim": 16},
}
