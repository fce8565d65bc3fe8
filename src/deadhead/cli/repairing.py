"""Repairs of plans that come from files: measured anew on calibration data."""

from __future__ import annotations

from collections.abc import Sequence

from deadhead.checkpoints.load import Loaded
from deadhead.criteria import Scorer
from deadhead.errors import DataError
from deadhead.heads import HeadModel
from deadhead.repair import Fits, fit
from deadhead.runs import DataSettings
from deadhead.types import PruningPlan


def fits_of(loaded: Loaded, plans: Sequence[PruningPlan], data: DataSettings) -> list[Fits]:
    """Fit what plans say about repair, all from one pass over the calibration data.

    Nothing is read and nothing is run if no plan has a repair.

    Raises:
        DataError: a plan has a repair and no calibration data are named.
    """
    trained = [plan for plan in plans if plan.repair == "distill"]
    if trained:
        raise DataError(
            "a plan whose repair is 'distill' cannot be replayed: it trains; take the checkpoint of"
            " its run, or name --repair least_squares"
        )
    wanted = [plan.repair for plan in plans if plan.repair != "none"]
    if not wanted:
        return [{} for _ in plans]
    if data.spec is None and data.calibration is None:
        raise DataError(
            f"the plan says repair {wanted[0]!r}, which needs calibration data; give --calibration"
            " or --task, or leave the repair out with --repair none"
        )
    source = data.open_one("calibration", loaded.tokenizer, loaded.model.config)
    view = HeadModel(loaded.model)
    moments = Scorer(view, source.batches(), []).moments
    return [fit(view, plan, moments, plan.repair) for plan in plans]
