"""Checkpoints: plain safetensors whose layers may have different head counts."""

from deadhead.checkpoints.load import DTYPES, Loaded, load_model
from deadhead.checkpoints.loader import register_loader
from deadhead.checkpoints.save import save_model

__all__ = [
    "DTYPES",
    "Loaded",
    "load_model",
    "register_loader",
    "save_model",
]
