"""Surgery: obeys a plan. `masked` is reversible; what ends in `_` is not."""

from deadhead.surgery.groups import POLICIES
from deadhead.surgery.mask import masked
from deadhead.surgery.remove import remove_

__all__ = ["POLICIES", "masked", "remove_"]
