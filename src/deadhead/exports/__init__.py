"""Exports: a cut model in forms that load where nobody has heard of deadhead."""

from typing import TYPE_CHECKING

from deadhead.files import lazy_exports

if TYPE_CHECKING:
    from deadhead.exports.dense import padded, uniform
    from deadhead.exports.formats import FORMATS, Exported, export

__getattr__, __dir__ = lazy_exports(__name__, __file__)
