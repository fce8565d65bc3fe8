"""Scoring: how criteria are shown a model, in as few passes as possible."""

from deadhead.scoring.diagnose import Diagnosis, diagnose
from deadhead.scoring.group import Scorers
from deadhead.scoring.scorer import Scorer, score, score_all

__all__ = ["Diagnosis", "Scorer", "Scorers", "diagnose", "score", "score_all"]
