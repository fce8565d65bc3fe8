"""Checkpoints: plain safetensors whose layers may have different head counts."""

from typing import TYPE_CHECKING

from deadhead.files import lazy_exports

if TYPE_CHECKING:
    from deadhead.checkpoints.load import DTYPES, Loaded, load_model
    from deadhead.checkpoints.loader import register_loader
    from deadhead.checkpoints.save import save_model

__getattr__, __dir__ = lazy_exports(__name__, __file__)
