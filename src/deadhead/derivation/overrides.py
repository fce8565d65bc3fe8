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
    "bros": {
        "dim_bbox_sinusoid_emb_2d": 12,
        "dim_bbox_sinusoid_emb_1d": 6,
        "dim_bbox_projection": 8,
    },
    "codegen": {"n_head": 4},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": ROTARY, "sliding_attention": ROTARY}
    },
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "llama4_vision_model": {"intermediate_size": 192},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zamba": {
        "attention_hidden_size": 96,
        "attention_head_dim": 16,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zamba2": {"attention_hidden_size": 96, "attention_head_dim": 16},
}
