"""Surgery carries out plans. Names ending in `_` change weights; `masked` and `applied` do not."""

from typing import TYPE_CHECKING

from deadhead.files import lazy_exports

if TYPE_CHECKING:
    from deadhead.surgery.apply import applied, apply_
    from deadhead.surgery.duplicate import duplicate_
    from deadhead.surgery.fold import fold_
    from deadhead.surgery.groups import POLICIES
    from deadhead.surgery.mask import mask_, masked
    from deadhead.surgery.remove import remove_

__getattr__, __dir__ = lazy_exports(__name__, __file__)
