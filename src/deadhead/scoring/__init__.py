"""Scoring: how criteria are shown a model, in as few passes as possible."""

from deadhead.scoring.scorer import Scorer, ScorerGroup, score, score_all
