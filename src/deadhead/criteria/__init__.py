"""Criteria: how important is each head? One file per criterion; `score` runs them."""

from deadhead.criteria import (  # noqa: F401 - they register
    ablation,
    attention_entropy,
    confidence,
    file,
    fisher,
    gradient_norm,
    magnitude,
    output_norm,
    random,
    reconstruction,
    shapley,
    taylor,
)
from deadhead.criteria.base import Criterion, SampleMean, criterion_names, register_criterion
from deadhead.models.observation import Observation, Projected

__all__ = [
    "Criterion",
    "Observation",
    "Projected",
    "SampleMean",
    "criterion_names",
    "register_criterion",
]
