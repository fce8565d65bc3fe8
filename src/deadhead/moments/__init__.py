"""Second moments of what enters the output projections, and the algebra that they allow."""

from typing import TYPE_CHECKING

from deadhead.files import lazy_exports

if TYPE_CHECKING:
    from deadhead.moments.elimination import Elimination
    from deadhead.moments.sums import BlockMoments, Moments, MomentSums

__getattr__, __dir__ = lazy_exports(__name__, __file__)
