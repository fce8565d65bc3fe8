"""A whole sweep: load once, judge every plan by tasks and lm-eval, write one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from torch import nn

from deadhead.checkpoints import Loaded
from deadhead.display import short_name, short_names
from deadhead.errors import CheckpointError, DataError, UnknownNameError
from deadhead.files import check_empty, locked, whole_folder, write_json
from deadhead.measure import model_size
from deadhead.models.architectures import origin_of
from deadhead.models.heads import HeadModel
from deadhead.pruning.auto import AutoSelector
from deadhead.pruning.recipe import AUTO
from deadhead.repair.distill import DistillReport, check_packages, distill_
from deadhead.report.sweep_page import SweepSummary, sweep_page
from deadhead.runs.facts import begun_with, data_facts, provenance_of, size_facts
from deadhead.runs.journal import Journal
from deadhead.runs.prune import time_both
from deadhead.runs.run_settings import LmEvalSettings, SweepSettings, Watch
from deadhead.runs.settings import table_fingerprint
from deadhead.runs.similarity import check_room, draw_grams, to_drop
from deadhead.scoring import ScorerGroup
from deadhead.scoring.passes import PassSettings
from deadhead.similarity import Clustering
from deadhead.strategies import droppable, shortfall
from deadhead.studies.grid import Line, Point, Reading, SweepGrid, count_points, table_lines
from deadhead.studies.sweep import Judge, sweep
from deadhead.tasks import Task
from deadhead.tasks.lm_eval import higher_is_better, interval, members, primary, run_lm_eval
from deadhead.tasks.lm_eval_names import check_lm_eval_tasks


def task_judge(task: Task, name: str) -> Judge:
    """Judge by a task's metric, with its interval; `name` is what the reading is called."""

    def judge(model: nn.Module) -> dict[str, Reading]:
        found = task.evaluate(model)
        ends = found.interval()
        return {name: Reading(found.metric, found.value, *ends, task.greater_is_better)}

    return judge


def lm_eval_names(settings: LmEvalSettings | None) -> tuple[str, ...]:
    """Look the names up, before any model is loaded; see `check_lm_eval_tasks`."""
    if settings is None:
        return ()
    return check_lm_eval_tasks(settings.tasks, settings.include_path)


def lm_eval_results(
    names: Sequence[str], settings: LmEvalSettings, model: nn.Module, tokenizer: Any
) -> dict[str, Any]:
    """Judge a model by tasks of lm-eval."""
    how = {**asdict(settings), "batch_size": settings.batch_size or "auto"}
    del how["tasks"]
    return run_lm_eval(model, tokenizer, names, **how)


def lm_eval_judge(name: str, settings: LmEvalSettings, loaded: Loaded) -> Judge:
    """Judge by a task of lm-eval, or by a group: its own metric, or those of its tasks."""

    def judge(model: nn.Module) -> dict[str, Reading]:
        results = lm_eval_results([name], settings, model, loaded.tokenizer)
        found = primary(results)
        readings = {}
        for task in members(name, results):
            metric, value, error = found[task]
            ends = interval(metric, value, error)
            higher = higher_is_better(results, task, metric)
            readings[f"lm-eval {task}"] = Reading(metric, value, *ends, higher)
        if not readings:
            raise DataError(f"lm-eval {name!r} gives no number; name a task with a metric")
        return readings

    return judge


def run_sweep(
    settings: SweepSettings, *, resume: bool = False, watch: Watch | None = None
) -> SweepSummary:
    """Run `deadhead sweep` and write its folder: sweep.csv, sweep.json, figures, report.html.

    Only the repair `distill` evaluates on the selection set.

    Raises:
        DeadheadError: of any kind; the folder is then not there, and the journal is.
    """
    check_empty(settings.output)
    with locked(settings.output):
        return _SweepRun(settings, watch or Watch(), resume=resume).summary()


class _SweepRun:
    """One sweep: set up by `__init__`, done by `summary`."""

    def __init__(self, settings: SweepSettings, watch: Watch, *, resume: bool):
        self.settings, self.watch, self.resume = settings, watch, resume
        self.grid = settings.sweep
        if self.grid.trains:
            check_packages(settings.distillation)
        named = lm_eval_names(settings.lm_eval)  # before anything is loaded
        self.loaded = loaded = settings.model.load()
        self.view = HeadModel(loaded.model)
        self.tasks = tasks = settings.data.open(loaded.reader, loaded.model.config)
        also = {spec: _also(spec, settings, loaded) for spec in settings.also}
        prompts = settings.prompts
        self.texts = prompts and prompts.open(loaded.tokenizer, loaded.model.config)
        self.data = data_facts(
            calibration=tasks.calibration,
            selection=tasks.selection if self.grid.trains else None,
            training=tasks.training if self.grid.trains else None,
            test=tasks.judge,
            prompts=self.texts,
            **also,
        )
        self.notes = dict.fromkeys(_check_shares(self.view, self.grid))
        sets = [tasks.judge, *also.values()]
        short = short_names(task.name for task in sets)  # unique: they become columns
        self.judges = [task_judge(task, short[task.name]) for task in sets]
        if settings.lm_eval is not None:
            self.judges += [lm_eval_judge(name, settings.lm_eval, loaded) for name in named]
        tables = {c.importance for c in self.grid.clusterings}
        header = begun_with(settings, self.data, [table_fingerprint(table) for table in tables])
        self.journal = Journal.open(settings.output, header, resume=resume)

    def summary(self) -> SweepSummary:
        """Judge every point and write the folder."""
        settings, texts = self.settings, self.texts
        points = self._points()
        size = size_facts(model_size(self.loaded.model))
        run = {
            **provenance_of(
                model={"name": self.loaded.name, **size},
                record=origin_of(self.view.records),
                data=self.data,
                command=settings.command,
                seed=self.grid.seed,
            ),
            "date": datetime.now(UTC).date().isoformat(),
            "notes": [*self.tasks.notes, *(texts.notes if texts else ()), *self.notes],
        }
        lines = table_lines(points)
        summary = SweepSummary(f"{short_name(self.loaded.name)}: {settings.kind}", lines, run)
        with whole_folder(settings.output) as folder:
            frame(lines).to_csv(folder / "sweep.csv", index=False)
            values = {"points": [point.to_json() for point in points], "run": run}
            write_json(folder / "sweep.json", values)
            sweep_page(summary).write(folder)
        self.journal.remove()
        return summary

    def _points(self) -> list[Point]:
        """Judge what the journal does not have; a failure before the first plan leaves nothing."""
        completed = [Point.from_json(point) for point in self.journal.points]
        count = count_points(self.grid)
        self.watch.on_note(f"{self.loaded.name}: {count} models to judge")
        self.watch.on_note(self.tasks.describe(trains=self.grid.trains))
        self.watch.on_total(count)
        for point in completed:
            self._report(point)
        new: list[Point] = []

        def keep(point: Point) -> None:
            new.append(point)
            self.journal.write("point", point.to_json())
            self._report(point)

        try:
            return self._judged({point.key: point for point in completed}, keep)
        except CheckpointError:  # the disk is full: what is written waits for --resume
            raise
        except Exception:
            if not self.resume and all(point.method == "dense" for point in new):
                self.journal.remove()
            raise

    def _report(self, point: Point) -> None:
        self.watch.on_work(f"{point.method}, {point.action}")

    def _judged(self, completed: Mapping[Any, Point], keep: Callable[[Point], None]) -> list[Point]:
        grid, calibration, settings = self.grid, self.tasks.calibration, self.settings
        names = [criterion for strategy, criterion in grid.chosen if strategy != AUTO]
        for clustering in grid.measured:  # groupings whose budgets a criterion makes
            if clustering.needs_scores:
                recipe = grid.of_clusters(clustering, grid.fractions[0], grid.actions[0])
                names.append(recipe.settled().criterion)
        repairs = grid.repairs != ("none",)
        scorers = ScorerGroup(
            self.view,
            calibration.batches() if names or repairs else [],
            names,
            loss=grid.loss,
            moments=repairs,
            settings=PassSettings(grid.seed, grid.strict),
        )
        said: dict[str, str] = {}  # one note per block: others differ by the ridge

        def note(line: str) -> None:
            if said.setdefault(line.split(" has ", maxsplit=1)[0], line) is line:
                self.notes[line] = None

        how = grid.clusterings[0] if grid.clusterings else Clustering()
        texts = self.texts or calibration
        return sweep(
            self.view,
            calibration,
            grid,
            self.judges,
            scorer_of=scorers.of,
            grams=lambda scope: draw_grams(self.view, texts, scope, how),
            selector=_selector(self.view, calibration, grid),
            moments=lambda: scorers.moments,
            train=self._train,
            measure=self._measured if settings.measure_size else None,
            done=completed,
            on_point=keep,
            on_note=note,
        )

    def _train(self, model: nn.Module) -> DistillReport:
        texts, dense = self.tasks.training or self.tasks.calibration, self.loaded.model
        how = self.settings.distillation
        return distill_(model, dense, texts, selection=self.tasks.selection, settings=how)

    def _measured(self, model: nn.Module) -> dict[str, float]:
        size = {k: float(v) for k, v in size_facts(model_size(model)).items() if v is not None}
        if self.settings.measure_speed:
            for row in time_both(self.view, model, self.tasks.judge):
                size |= {
                    f"{row.setting} speedup": row.speedup,
                    f"{row.setting} speedup low": row.low,
                    f"{row.setting} speedup high": row.high,
                    f"{row.setting} ceiling": row.ceiling,
                    f"{row.setting} ms": row.ms_after,
                }
        return size


def _selector(view: HeadModel, calibration: Task, grid: SweepGrid) -> AutoSelector | None:
    if all(strategy != AUTO for strategy, _ in grid.chosen):
        return None
    settings = PassSettings(grid.seed, grid.strict)
    probes = calibration.probes()
    return AutoSelector(view, calibration.batches(), probes, loss=grid.loss, settings=settings)


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
    """Refuse shares that cannot be reached, before any pass; yield notes about the others."""
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
        return alone.open_one("test", loaded.reader, loaded.model.config)
    except (DataError, UnknownNameError) as error:
        raise type(error)(f"further test set {spec!r}, read as the first: {error}") from error
