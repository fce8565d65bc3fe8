"""A whole sweep: load once, judge every plan, write one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from deadhead.checkpoints import Loaded, load_model
from deadhead.data.inputs import to_device
from deadhead.data.prompts import Prompts
from deadhead.display.words import short_names
from deadhead.errors import CheckpointError, DataError, UnknownNameError
from deadhead.files import check_empty, locked, whole_folder
from deadhead.measure import measure_all
from deadhead.models.heads import HeadModel
from deadhead.pruning.auto import AutoSelector
from deadhead.pruning.recipe import AUTO, Recipe
from deadhead.repair.distill import Distillation, DistillReport, check_packages, distill_
from deadhead.report.sweep_page import SweepSummary, write_sweep_page
from deadhead.runs.comparing import check_room, to_drop
from deadhead.runs.facts import data_facts, size_facts, versions
from deadhead.runs.journal import Journal
from deadhead.runs.judging import LmEvalSettings, judge_by, judge_by_lm_eval, lm_eval_names
from deadhead.runs.settings import DataSettings, ModelSettings, PromptSettings, table_fingerprint
from deadhead.scoring import ScorerGroup
from deadhead.similarity import Clustering, HeadGrams, head_grams
from deadhead.strategies import droppable, shortfall
from deadhead.studies.readings import Line, Point, table_lines
from deadhead.studies.sweep import SweepGrid, count_points, sweep
from deadhead.tasks import Task, TaskSet


@dataclass(frozen=True)
class SweepSettings:
    """A whole `deadhead sweep`.

    Attributes:
        model, data, sweep: see there.
        output: the folder.
        prompts: what heads are compared on; None: the calibration data.
        also: further test sets, read by the same kind and columns as `data`: where it names none,
            each as its own columns say.
        lm_eval: tasks and groups of lm-eval that judge as well; of a group without a metric of its
            own, and of a tag, each task.
        distillation: how the repair `distill` trains.
        measure_speed: time what is really smaller.
        measure_size: cut what gets smaller, and weigh it; else its logits alone are judged.
        kind: what it is called in its title: sweep or compare.
        command: the command as it was typed; not compared on resume.
    """

    model: ModelSettings
    data: DataSettings
    sweep: SweepGrid
    output: Path
    prompts: PromptSettings | None = None
    also: tuple[str, ...] = ()
    lm_eval: LmEvalSettings | None = None
    distillation: Distillation = field(default_factory=Distillation)
    measure_speed: bool = True
    measure_size: bool = True
    kind: str = "sweep"
    command: str = field(default="", compare=False)

    def header(self) -> Mapping[str, Any]:
        """What has to be the same when a sweep goes on: a JSON value."""
        values = asdict(self)
        return json.loads(json.dumps({k: values[k] for k in values if k not in _NOT_COMPARED}))


_NOT_COMPARED = ("output", "command")


def conduct_sweep(
    settings: SweepSettings,
    *,
    resume: bool = False,
    on_start: Callable[[Loaded, TaskSet, int], None] = lambda loaded, tasks, points: None,
    on_point: Callable[[Point], None] = lambda point: None,
) -> SweepSummary:
    """Run `deadhead sweep` and write its folder: sweep.csv, sweep.json, figures, report.html.

    The selection set is looked at by the repair `distill` alone.

    Raises:
        DeadheadError: of any kind; the folder is then not there, and the journal is.
    """
    check_empty(settings.output)
    with locked(settings.output):
        return _conduct_sweep(settings, resume, on_start, on_point)


def _conduct_sweep(
    settings: SweepSettings,
    resume: bool,
    on_start: Callable[[Loaded, TaskSet, int], None],
    on_point: Callable[[Point], None],
) -> SweepSummary:
    if settings.sweep.trains:
        check_packages(settings.distillation)
    named = lm_eval_names(settings.lm_eval)  # before anything is loaded
    loaded = load_model(**settings.model.__dict__)
    view = HeadModel(loaded.model)
    tasks = settings.data.open(loaded.tokenizer, loaded.model.config)
    also = {spec: _also(spec, settings, loaded) for spec in settings.also}
    prompts = settings.prompts
    texts = None if prompts is None else prompts.open(loaded.tokenizer, loaded.model.config)
    distilled = {"selection": tasks.selection, "training": tasks.training}
    data = data_facts(
        calibration=tasks.calibration,
        **(distilled if settings.sweep.trains else {}),
        test=tasks.judge,
        prompts=texts,
        **also,
    )
    tables = {c.importance for c in settings.sweep.clusterings}
    header = {
        **settings.header(),
        "fingerprints": data,
        "weights": settings.model.fingerprint(),
        "importance": [table_fingerprint(table) for table in tables],
        "versions": versions(),
    }
    unreached = dict.fromkeys(_check_shares(view, settings.sweep))
    sets = [tasks.judge, *also.values()]
    short = short_names(task.name for task in sets)  # unique: they become columns
    judges = [judge_by(task, short[task.name]) for task in sets]
    if settings.lm_eval is not None:
        judges += [judge_by_lm_eval(name, settings.lm_eval, loaded) for name in named]
    journal = Journal.open(settings.output, header, resume=resume)
    on_start(loaded, tasks, count_points(settings.sweep))

    seen: list[Point] = []

    def keep(point: Point) -> None:
        seen.append(point)
        journal.write("point", point.to_json())
        on_point(point)

    notes: dict[str, str] = {}  # one per block: others differ by the ridge

    def note(said: str) -> None:
        notes.setdefault(said.split(" has ", maxsplit=1)[0], said)

    done = [Point.from_json(point) for point in journal.points]
    for point in done:
        on_point(point)
    grid = settings.sweep
    names = [criterion for strategy, criterion in grid.chosen if strategy != AUTO]
    names += [recipe.settled().criterion for recipe in _budgets(grid)]
    scorers = ScorerGroup(
        view,
        tasks.calibration.batches() if names or grid.repairs != ("none",) else [],
        names,
        loss=grid.loss,
        seed=grid.seed,
        moments=grid.repairs != ("none",),
        strict=grid.strict,
    )
    try:
        points = sweep(
            view,
            settings.sweep,
            judges,
            scorer_of=scorers.of,
            grams=_grams(view, texts or tasks.calibration, settings.sweep),
            selector=_selector(view, tasks.calibration, grid),
            moments=lambda: scorers.moments,
            batches=tasks.calibration.batches(),
            train=_trainer(loaded.model, tasks, settings.distillation),
            measure=_measure(loaded.model, tasks.judge, timed=settings.measure_speed)
            if settings.measure_size
            else None,
            done={point.key: point for point in done},
            on_point=keep,
            on_note=note,
        )
    except CheckpointError:  # the disk is full: what is written waits for --resume
        raise
    except Exception:
        if not resume and not any(point.method != "dense" for point in seen):
            journal.remove()  # nothing but the dense model was judged
        raise
    run = {
        "command": settings.command,
        "versions": versions(),
        "data": data,
        "notes": [*tasks.notes, *(texts.notes if texts else ()), *unreached, *notes.values()],
        "seed": settings.sweep.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "model": {"name": loaded.name, **size_facts(loaded.model)},
    }
    lines = table_lines(points)
    summary = SweepSummary(f"{loaded.name}: {settings.kind}", lines, run)
    with whole_folder(settings.output) as folder:
        frame(lines).to_csv(folder / "sweep.csv", index=False)
        values = {"points": [point.to_json() for point in points], "run": run}
        (folder / "sweep.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        write_sweep_page(summary, folder)
    journal.remove()
    return summary


def _selector(view: HeadModel, calibration: Task, grid: SweepGrid) -> AutoSelector | None:
    if all(strategy != AUTO for strategy, _ in grid.chosen):
        return None
    how = {"loss": grid.loss, "seed": grid.seed, "strict": grid.strict}
    return AutoSelector(view, calibration.batches(), calibration.probes(), **how)


def frame(lines: list[Line]) -> pd.DataFrame:
    """Return the lines of a sweep as a table: a column per judge, and its interval."""
    rows = []
    for line in lines:
        row: dict[str, Any] = {
            "method": line.method,
            "action": line.action,
            "asked": line.asked,
            "actual": line.actual,
            "heads_dropped": line.dropped,
            "draws": line.draws,
        }
        for judge, reading in line.readings.items():
            row |= {
                f"{judge} {reading.metric}": reading.value,
                f"{judge} low": reading.low,
                f"{judge} high": reading.high,
            }
        rows.append({**row, "seconds": line.seconds, **line.size, "reason": line.reason})
    return pd.DataFrame(rows)


def _check_shares(view: HeadModel, grid: SweepGrid) -> Iterator[str]:
    """Refuse shares that cannot be had, before any pass; yield what is to be said of others."""
    for fraction in grid.fractions:
        for clustering in grid.clusterings:
            check_room(view, clustering, to_drop(view, clustering, fraction))
        for strategy, criterion in grid.chosen:
            recipe = grid.of_criterion(criterion, fraction, strategy=strategy)
            droppable(view, view.mask, recipe.rules, fraction)
            if short := shortfall(view, view.mask, recipe.rules, fraction):
                yield short


def _also(spec: str, settings: SweepSettings, loaded: Loaded) -> Task:
    alone = replace(settings.data, test=spec, test_size=None)
    try:
        return alone.open_one("test", loaded.tokenizer, loaded.model.config)
    except (DataError, UnknownNameError) as error:
        raise type(error)(f"further test set {spec!r}, read as the first: {error}") from error


def _budgets(grid: SweepGrid) -> list[Recipe]:
    """List recipes of groupings whose budgets a criterion makes."""
    return [
        grid.of_clusters(clustering, grid.fractions[0], grid.actions[0])
        for clustering in grid.measured
        if clustering.grouping == "importance_budget" and clustering.importance is None
    ]


def _grams(view: HeadModel, texts: Prompts | Task, grid: SweepGrid) -> Callable[[str], HeadGrams]:
    how = grid.clusterings[0] if grid.clusterings else Clustering()

    def grams(scope: str) -> HeadGrams:
        return head_grams(
            view,
            texts.batches(),
            scope=scope,
            include_padding=how.include_padding,
            first_token=how.first_token,
        )

    return grams


def _trainer(
    dense: Any, tasks: TaskSet, settings: Distillation
) -> Callable[[nn.Module], DistillReport]:
    texts = tasks.training or tasks.calibration

    def train(model: nn.Module) -> DistillReport:
        return distill_(model, dense, texts, selection=tasks.selection, settings=settings)

    return train


def _measure(dense: Any, test: Task, *, timed: bool) -> Callable[[nn.Module], dict[str, float]]:
    batch = max(test.batches(), key=lambda b: b["input_ids"].shape[1])
    device = next(dense.parameters()).device
    inputs = {k: v[:1] for k, v in to_device(batch, device).items() if k != "labels"}

    def measure(model: nn.Module) -> dict[str, float]:
        size = {k: float(v) for k, v in size_facts(model).items() if v is not None}
        for row in measure_all(dense, model, inputs, repeats=15, warmup=3) if timed else ():
            size |= {
                f"{row.setting} speedup": row.speedup,
                f"{row.setting} speedup low": row.low,
                f"{row.setting} speedup high": row.high,
                f"{row.setting} ceiling": row.ceiling,
                f"{row.setting} ms": row.ms_after,
            }
        return size

    return measure
