"""Repairs of plans that come from files: measured anew on calibration data."""

from __future__ import annotations

from collections.abc import Sequence

from deadhead.checkpoints.load import Loaded
from deadhead.cli.console import say
from deadhead.errors import DataError
from deadhead.models.heads import HeadModel
from deadhead.repair import REPAIRS, Fits, fit, notes_of
from deadhead.runs import DataSettings
from deadhead.scoring import Scorer
from deadhead.types import PruningPlan


def fits_of(
    loaded: Loaded, plans: Sequence[PruningPlan], data: DataSettings, *, strict: bool = False
) -> list[Fits]:
    """Fit what plans say about repair, all from one pass over the calibration data.

    Nothing is read and nothing is run if no plan has a repair. Says where tokens were scarce.

    Raises:
        DataError: a plan has a repair and no calibration data are named; or `strict`, and there are
            fewer tokens than unknowns.
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
    view, batches = HeadModel(loaded.model), source.batches()
    measured = any(REPAIRS[name].needs_moments for name in wanted)
    moments = Scorer(view, batches, None).moments if measured else None
    found: list[Fits] = [fit(view, plan, moments, batches=batches, strict=strict) for plan in plans]
    for note in dict.fromkeys(note for fits in found for note in notes_of(fits)):
        say(f"note: {note}")
    return found
