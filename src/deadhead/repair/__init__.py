"""Repair: output projections refitted, so that the remaining heads make up for the removed ones."""

from deadhead.repair.base import REPAIRS, Fit, Fits, Repair, repair_names, without_training
from deadhead.repair.fitting import fit, repair_notes
from deadhead.repair.write import applied_repaired, apply_repaired_, repair_, repaired, write_fits_

__all__ = [
    "REPAIRS",
    "Fit",
    "Fits",
    "Repair",
    "applied_repaired",
    "apply_repaired_",
    "fit",
    "repair_",
    "repair_names",
    "repair_notes",
    "repaired",
    "without_training",
    "write_fits_",
]
