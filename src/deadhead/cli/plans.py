"""Plans and scores that commands read from files, and the repairs of such plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.cli.console import say
from deadhead.errors import DataError, FileFormatError, HeadError, ScoreError
from deadhead.files import read_json
from deadhead.options.fields import check_choices, option, settings
from deadhead.options.values import Action, Gqa, Slope
from deadhead.pruning.recipe import AUTO
from deadhead.runs.settings import DataSettings
from deadhead.types import HeadMask, HeadScores, PruningPlan

if TYPE_CHECKING:
    from deadhead.checkpoints import Loaded
    from deadhead.repair import Fits

LOGS = (".txt", ".log", ".csv", ".tsv")  # endings of pruning logs


@settings
class PlanChanges:
    """What to do instead of what a plan says."""

    action: Action | None = option(default=None, help="Instead of the plan's action.", group="plan")
    repair: str | None = option(
        default=None,
        help="Instead of the plan's repair: least_squares, least_squares_sequential, bias or none."
        " Needs --calibration or --task.",
        group="plan",
    )
    slope: Slope | None = option(default=None, help="Instead of the plan's slope.", group="plan")
    gqa: Gqa | None = option(
        default=None,
        help="Instead of the plan's policy; a pruning log says nothing and means ungroup, as single"
        " heads were grouped.",
        group="plan",
    )

    def __post_init__(self) -> None:
        from deadhead.repair import REPAIRS

        check_choices(self)
        if self.repair is not None:
            _ = REPAIRS[self.repair]


def note_other_model(what: str, provenance: Mapping[str, Any], name: str) -> None:
    """Say if a file was made with another model than the one at hand."""
    made_for = provenance.get("model")
    if made_for not in (None, name):
        say(f"note: the {what} made for {made_for!r}, and the model is {name!r}")


def check_plan_files(files: Sequence[Path]) -> None:
    """Refuse, before anything is loaded, a plan that is not there."""
    for file in files:
        if not file.is_file():
            raise DataError(f"{str(file)!r} is not there; give the file that holds a plan")


def read_plan(file: Path, loaded: Loaded, mask: HeadMask, changes: PlanChanges) -> PruningPlan:
    """Read a plan.json, or a pruning log of explainabloomity, for a model that holds `mask`.

    `{"0": [1, 2]}`, the heads to remove by block as transformers 4 took them, is a plan as well.
    A log does not say how: it means `duplicate` with the slope of the `target`, and `ungroup`.
    Heads that the model has lost before stay lost.
    """
    if file.suffix.lower() in LOGS:
        plan = _of_log(file, mask)
    else:
        try:
            values = read_json(file, what="a plan")
            plan = _of_blocks(values, mask) or PruningPlan.from_json(values)
        except FileFormatError as error:
            if file.suffix.lower() == ".json":
                raise
            raise FileFormatError(f"{error}; pruning logs end in {', '.join(LOGS)}") from error
        plan.mask.check_shape(mask.counts)
    note_other_model("plan was", plan.provenance, loaded.name)
    return replace(plan, **{name: value for name, value in vars(changes).items() if value})


def fits_of(
    loaded: Loaded,
    plans: Sequence[tuple[Path, PruningPlan]],
    data: DataSettings,
    *,
    strict: bool = False,
) -> list[Fits]:
    """Return the repairs of plans: stored with the plan, or fitted on the calibration data.

    All that is fitted takes one pass. Nothing is run if no plan has a repair, or each is stored.
    Says where tokens were scarce.
    """
    from deadhead.models.heads import HeadModel
    from deadhead.repair.write import fits_file, read_fits

    view = HeadModel(loaded.model)
    if any(plan.repair == "distill" for _, plan in plans):
        raise DataError(
            "a plan whose repair is 'distill' cannot be replayed: it trains; take the checkpoint of"
            " its run, or name --repair least_squares"
        )
    named = data.spec is not None or bool(data.calibration)
    fits: list[Fits | None] = []
    for file, plan in plans:
        stored = None if named else read_fits(fits_file(file), view, plan)
        fits.append({} if plan.repair == "none" else stored)
    missing = [plan for (_, plan), known in zip(plans, fits, strict=True) if known is None]
    if missing and not named:
        raise DataError(
            f"the plan says repair {missing[0].repair!r}, which needs calibration data: none is"
            " stored beside it for this model and this plan; give --calibration or --task, or"
            " leave the repair out with --repair none"
        )
    fitted: Iterator[Fits] = iter(())
    if missing:
        source = data.open_one("calibration", loaded.reader, loaded.model.config)
        fitted = iter(fit_plans(view, missing, source.batches(), strict=strict))
    return [next(fitted) if known is None else known for known in fits]


def fit_plans(
    view: Any, plans: Sequence[PruningPlan], batches: Sequence[Any], *, strict: bool = False
) -> list[Fits]:
    """Fit the repairs of plans from one pass over the calibration batches."""
    from deadhead.repair import REPAIRS, fit, repair_notes
    from deadhead.scoring import Scorer

    measured = any(REPAIRS[plan.repair].needs_moments for plan in plans)
    moments = Scorer(view, batches, None).moments if measured else None
    fitted: list[Fits] = [
        fit(view, plan, moments, batches=batches, strict=strict) for plan in plans
    ]
    for note in dict.fromkeys(note for fits in fitted for note in repair_notes(fits)):
        say(f"note: {note}")
    return fitted


def _of_blocks(values: Any, mask: HeadMask) -> PruningPlan | None:
    """Read `{"0": [1, 2]}`, the heads to remove by block; None if it is something else."""
    if not isinstance(values, dict) or not values or not all(k.isdecimal() for k in values):
        return None
    from deadhead.surgery.plans import heads_of_blocks

    return PruningPlan(mask.drop(*heads_of_blocks(values)), gqa="ungroup")


def _of_log(file: Path, mask: HeadMask) -> PruningPlan:
    from deadhead.interop import read_pruning_log

    found = read_pruning_log(file, counts=mask.counts)
    for head, source in found.copies.items():
        if not mask.keeps(source):
            raise HeadError(
                f"{str(file)!r} keeps head {source} in the place of {head}, and this model has lost"
                f" {source}; replay it on the uncut model, or plan again"
            )
    return replace(found, mask=found.mask & mask, gqa="ungroup")


def read_scores(file: Path, criterion: str) -> HeadScores:
    """Read the scores of one criterion from what `deadhead score -o` or a run wrote.

    `auto` is the only one that the file holds.
    """
    data = read_json(file, what="scores")
    entries = [data] if "values" in data else data.values()
    try:
        held = {s.criterion: s for s in map(HeadScores.from_json, entries)}
    except ScoreError as error:
        raise FileFormatError(f"{str(file)!r} does not hold scores: {error}") from error
    if criterion == AUTO and len(held) == 1:
        return next(iter(held.values()))
    if criterion not in held:
        raise DataError(
            f"{str(file)!r} has no scores of {criterion!r}; it holds {', '.join(sorted(held))};"
            " name one with --criterion"
        )
    return held[criterion]
