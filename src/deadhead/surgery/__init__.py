"""Surgery: obeys a plan. What ends in `_` is for good, `masked` and `applied` are not."""

from deadhead.surgery.apply import applied, apply_
from deadhead.surgery.duplicate import duplicate_
from deadhead.surgery.fold import fold_
from deadhead.surgery.groups import POLICIES
from deadhead.surgery.mask import mask_, masked
from deadhead.surgery.remove import remove_

__all__ = ["POLICIES", "applied", "apply_", "duplicate_", "fold_", "mask_", "masked", "remove_"]
