"""Losses: one number per sample, with labels or without, and divergence from the dense model."""

from deadhead.losses.losses import LOSSES

__all__ = ["LOSSES"]
