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
from deadhead.criteria.base import (
    Criterion,
    Observation,
    Projected,
    SampleMean,
    criterion_names,
    register_criterion,
)
from deadhead.criteria.diagnose import Diagnosis, diagnose
from deadhead.criteria.losses import LOSSES
from deadhead.criteria.score import Scorer, score, score_all
from deadhead.criteria.shared import Scorers

__all__ = [
    "LOSSES",
    "Criterion",
    "Diagnosis",
    "Observation",
    "Projected",
    "SampleMean",
    "Scorer",
    "Scorers",
    "criterion_names",
    "diagnose",
    "register_criterion",
    "score",
    "score_all",
]
