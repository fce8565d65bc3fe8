"""Losses: one number per sample, with labels or without, and divergence from the dense model."""

from deadhead.display import Names, listed_when_called
from deadhead.losses.losses import LOSSES

__all__ = ["LOSSES"]

listed_when_called(__name__, lambda: Names(LOSSES.described()))
