"""Criteria: how important is each head? One file per criterion; `scoring` runs them."""

from deadhead.criteria.base import CRITERIA, Criterion, SampleMean, register_criterion
from deadhead.display import Names, listed_when_called
from deadhead.models.observation import Observation, Projected

listed_when_called(__name__, lambda: Names(CRITERIA.described()))
