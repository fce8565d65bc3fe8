"""Second moments of what enters the output projections, and the algebra that they allow."""

from deadhead.moments.elimination import Elimination
from deadhead.moments.sums import BlockMoments, Moments, MomentSums

__all__ = ["BlockMoments", "Elimination", "MomentSums", "Moments"]
