"""Repair: output projections refitted, so that the remaining heads make up for the removed ones."""

from deadhead.repair.base import (
    REPAIRS,
    Fit,
    Fits,
    Repair,
    own_share,
    repair_names,
    without_training,
)
from deadhead.repair.fits import fit, own_notes, repair_notes
from deadhead.repair.write import applied_repaired, apply_repaired_, repair_, repaired, write_fits_
