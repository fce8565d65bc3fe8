"""Repair: output projections refitted, so that the heads that stay make up for those that went."""

from deadhead.repair import bias, least_squares, sequential
from deadhead.repair.base import Fit, Fits, Repair, data_repair_named, repair_named, repair_names
from deadhead.repair.fitting import fit, notes_of
from deadhead.repair.write import applied_repaired, apply_repaired_, repair_, repaired, write_fits_

__all__ = [
    "Fit",
    "Fits",
    "Repair",
    "applied_repaired",
    "apply_repaired_",
    "data_repair_named",
    "fit",
    "notes_of",
    "repair_",
    "repair_named",
    "repair_names",
    "repaired",
    "write_fits_",
]
