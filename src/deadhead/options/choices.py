"""What may be chosen, as types that editors complete; a test holds them to the registries."""

from __future__ import annotations

from typing import Literal

CriterionName = Literal[
    "ablation",
    "attention_entropy",
    "confidence",
    "file",
    "fisher",
    "gradient_norm",
    "magnitude",
    "output_norm",
    "random",
    "reconstruction",
    "shapley",
    "taylor",
]
Strategy = Literal["auto", "one_shot", "greedy", "second_look", "search", "clusters"]
Repair = Literal["auto", "none", "bias", "least_squares", "least_squares_sequential", "distill"]
RepairAt = Literal["step", "end"]
Scope = Literal["global", "per_block"]
Gqa = Literal["whole_groups", "equalize", "ungroup"]
Action = Literal["remove", "mask", "duplicate", "fold"]
Slope = Literal["target", "source"]
Loss = Literal["task", "kl", "logit_norm"]
Kind = Literal["classification", "minimal_pairs", "perplexity"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
Distance = Literal["cosine", "euclidean"]
Grouping = Literal["balanced", "nearest_pairs", "importance_budget", "global", "random"]
Representative = Literal["medoid", "random"]
ClusterUnit = Literal["head", "kv"]
WardOn = Literal["unit", "raw"]
FirstToken = Literal["keep", "drop", "renormalize"]
