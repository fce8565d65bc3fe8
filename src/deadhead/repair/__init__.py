"""Repair: output projections refitted, so that the heads that stay make up for those that went."""

from deadhead.repair import bias, least_squares  # noqa: F401 - they register
from deadhead.repair.base import Fit, Fits, Repair, fit, repair_named, repair_names
from deadhead.repair.write import (
    applied_repaired,
    apply_repaired_,
    repair_,
    repaired,
    write_fits_,
)

__all__ = [
    "Fit",
    "Fits",
    "Repair",
    "applied_repaired",
    "apply_repaired_",
    "fit",
    "repair_",
    "repair_named",
    "repair_names",
    "repaired",
    "write_fits_",
]
