"""Scoring: how criteria are shown a model, in as few passes as possible."""

from deadhead.scoring.group import ScorerGroup
from deadhead.scoring.scorer import Scorer, score, score_all

__all__ = ["Scorer", "ScorerGroup", "score", "score_all"]
