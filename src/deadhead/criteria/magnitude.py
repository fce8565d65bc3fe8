"""magnitude: the size of a head's OV map, from the weights alone."""

from __future__ import annotations

import math

import numpy as np
import torch

from deadhead.criteria.base import register_criterion
from deadhead.errors import ScoreError
from deadhead.models.heads import HeadModel
from deadhead.types import Head


@register_criterion("magnitude")
class Magnitude:
    """Score heads by the Frobenius norm of `W_V[h].T @ W_O[h].T`, the map from input to output.

    Shape: one score per (block, head). Unit: of the weights, squared.
    Cost: no data; `hidden * head_dim^2` per head (the norm is taken from two Gram matrices).
    Source: weight-only baseline (norm of the OV circuit).
    """

    def __init__(self, view: HeadModel):
        self.view = view

    def scores(self) -> list[np.ndarray]:
        """Return the norms; refuse weights that are not finite."""
        return [
            np.array([self._norm(Head(b, i)) for i in block.original.heads], dtype=np.float64)
            for b, block in enumerate(self.view.blocks)
        ]

    def _norm(self, head: Head) -> float:
        weights = self.view.head_weights(head)
        v, o = weights["value"].detach().cpu().double(), weights["output"].detach().cpu().double()
        squared = ((v @ v.T) * (o.T @ o)).sum()  # norm(V.T O.T)^2 = trace(V V.T O.T O)
        norm = float(torch.sqrt(squared.clamp(min=0)))
        if not math.isfinite(norm):
            raise ScoreError(
                f"magnitude of head {head} is {norm}: its weights are not finite; load the"
                " checkpoint again from where it was written"
            )
        return norm
