"""Runs explained: the section of the report, and a finished run opened again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from deadhead.checkpoints import Loaded
from deadhead.display import Brief
from deadhead.errors import DataError, DeadheadError, FileFormatError
from deadhead.files import one_line, read_json
from deadhead.models.heads import HeadModel
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.result import Pruning
from deadhead.repair import REPAIRS
from deadhead.report import RunSummary
from deadhead.runs.settings import DataSettings, ModelSettings
from deadhead.scoring import Scorer
from deadhead.studies.explain import explain
from deadhead.studies.explanation import Explanation
from deadhead.tasks import Task, TaskSet
from deadhead.types import HeadScores

NEEDED = ("run.json", "plan.json")
OWN = "own"
MODEL = "; say with --model where it is now"
DATA = "; say with --task (or --calibration) where they are now"


def explained(
    view: HeadModel, tasks: TaskSet, recipe: Recipe, pruning: Pruning
) -> Explanation | None:
    """Explain a run that has just ended, without measuring; None if nothing was removed.

    What goes wrong here is a note of the explanation: the run itself is whole.

    Cost: one forward and backward pass over the calibration data.
    """
    if pruning.plan.mask == pruning.trajectory.start.mask:
        return None
    what = {"seed": recipe.seed, "scores": pruning.scores, "samples": 0}
    loss = run_loss(pruning.scores, recipe.loss)
    batches = tasks.calibration.batches()
    try:
        return explain(view, batches, pruning.plan, pruning.trajectory, loss=loss, **what)
    except (DeadheadError, torch.OutOfMemoryError) as error:
        found = explain(view, [], pruning.plan, pruning.trajectory, criteria=[], **what)
        return replace(found, notes=(f"no other criterion scored these heads: {error}",))


def run_loss(scores: HeadScores | None, named: str | None) -> str:
    """Return the loss that a run differentiated: the one named, its criterion's own, or `kl`."""
    made = [] if scores is None else [scores.provenance, *scores.provenance.values()]
    own = (str(p["loss"]) for p in made if isinstance(p, Mapping) and "loss" in p)
    return named or next(own, "kl")


@dataclass(frozen=True, repr=False)
class FinishedRun(Brief):
    """The folder that `deadhead prune` wrote."""

    folder: Path
    summary: RunSummary

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Read a run."""
        lacking = [name for name in NEEDED if not (folder / name).is_file()]
        if lacking:
            raise DataError(
                f"{str(folder)!r} is not a run of 'deadhead prune': it has no {lacking[0]};"
                " give the folder that the run wrote"
            )
        try:
            values = read_json(folder / "run.json", what="a run")
            values["plan"] = read_json(folder / "plan.json", what="a plan")
            scores = folder / "scores.json"
            values["scores"] = read_json(scores, what="scores") if scores.is_file() else None
            summary = RunSummary.from_json(values)
        except (DeadheadError, ValueError, TypeError, LookupError, AttributeError) as error:
            reason = error if isinstance(error, DeadheadError) else one_line(repr(error))
            raise FileFormatError(
                f"{str(folder)!r} cannot be read as a run of 'deadhead prune': {reason}"
            ) from error
        return cls(folder, summary)

    @property
    def removed(self) -> int:
        """How many heads the run removed."""
        return self.summary.trajectory.start.mask.n_kept - self.summary.plan.mask.n_kept

    def open_model(
        self,
        source: str | None = None,
        device: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> Loaded:
        """Load the dense model; from `source` and on `device`, if not as the run did.

        The caller decides whether code that comes with the model may run, not the file.
        """
        recorded = _known(ModelSettings, self._recorded("model"))
        if source is None and "source" not in recorded:
            raise DataError(f"{str(self.folder)!r} does not say which model it pruned{MODEL}")
        moved = {k: v for k, v in (("source", source), ("device", device)) if v is not None}
        given: dict[str, Any] = {**moved, "trust_remote_code": trust_remote_code}
        settings = ModelSettings(**recorded | given)
        before, now = self.summary.run.get("weights"), settings.fingerprint()
        if source is None and None not in (before, now) and before != now:
            raise DataError(
                f"the model in {settings.source!r} has changed since the run: its files have the"
                f" fingerprint {now}, and had {before}{MODEL}"
            )
        try:
            return settings.load()
        except DeadheadError as error:
            where = "" if str(settings.device) in str(error) else MODEL
            raise DataError(f"the run's model cannot be loaded: {error}{where}") from error

    def open_calibration(
        self, loaded: Loaded, task: str | None = None, calibration: Sequence[str] = ()
    ) -> Task:
        """Open the calibration data; from `task` or `calibration`, if not as the run did."""
        recorded = _known(DataSettings, self._recorded("data"))
        if recorded.get("calibration") is None:  # older runs have null
            recorded["calibration"] = ()
        settings = DataSettings(**recorded)
        if task is not None:
            elsewhere = dict.fromkeys(("selection", "train", "test"))
            settings = replace(settings, spec=task, calibration=(), **elsewhere)
        if calibration:
            settings = replace(settings, calibration=tuple(calibration))
        try:
            what = (loaded.reader, loaded.model.config)
            try:  # what the run's other sets share with it was dropped
                found = settings.open(*what).calibration
            except DeadheadError:
                if not calibration:
                    raise
                found = settings.open_one("calibration", *what)
        except DeadheadError as error:
            raise DataError(f"the run's data cannot be opened: {error}{DATA}") from error
        before = self._part("data", "calibration").get("fingerprint")
        if before not in (None, found.fingerprint):
            raise DataError(
                f"{found.name!r} is not what the run calibrated on: it has the fingerprint"
                f" {found.fingerprint}, and that had {before}{DATA}"
            )
        return found

    def explain(
        self,
        view: HeadModel,
        source: Task,
        *,
        criteria: Sequence[str] | None = None,
        loss: str | None = None,
        samples: int | None = 128,
        on_work: Callable[[str], None] = lambda what: None,
    ) -> Explanation:
        """Explain the run; see `explain`. Loss None: the run's; `own`: each criterion's own."""
        summary, recipe = self.summary, self._recorded("recipe")
        repair = summary.plan.repair
        weighted_by = recipe.get("loss") or "kl"
        loss = loss or run_loss(summary.scores, recipe.get("loss"))
        batches = source.batches()
        moments = None
        needs_moments = REPAIRS[repair].needs_moments and samples != 0
        if needs_moments and (weighted_by, loss) != ("kl", OWN) and loss != weighted_by:
            moments = Scorer(view, batches, None, loss=weighted_by).moments
        found = explain(
            view,
            batches,
            summary.plan,
            summary.trajectory,
            criteria=criteria,
            loss=None if loss == OWN else loss,
            seed=recipe.get("seed", 0),
            scores=summary.scores,
            samples=samples,
            moments=moments,
            on_work=on_work,
        )
        return replace(found, notes=(*found.notes, *_notes(found, recipe)))

    def _recorded(self, part: str) -> Mapping[str, Any]:
        return self._part("settings", part)

    def _part(self, *path: str) -> Mapping[str, Any]:
        found: Any = self.summary.run
        for name in path:
            found = found.get(name) or {}
            if not isinstance(found, Mapping):
                raise FileFormatError(
                    f"{str(self.folder / 'run.json')!r} cannot be read: its {name!r} is"
                    f" {found!r:.80}, not an object; give the folder as 'deadhead prune' wrote it"
                )
        return found


def _notes(found: Explanation, recipe: Mapping[str, Any]) -> Iterator[str]:
    if found.repair != "none" and recipe.get("repair_at") == "end":
        yield (
            f"the run repaired its last model only: {found.metric} of the steps is without repair,"
            " KL as if each had been repaired"
        )
    if found.repair == "distill" and found.measured:
        yield "distill trains the last model only, after least_squares, which is what is measured"


def _known(kind: type, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that this version knows of those that some version recorded."""
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in recorded.items() if name in names}
