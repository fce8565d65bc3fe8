"""What judges the models of a sweep: tasks, and tasks of lm-eval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from deadhead.checkpoints import Loaded
from deadhead.errors import DataError
from deadhead.studies.readings import Reading
from deadhead.studies.sweep import Judge
from deadhead.tasks import Task
from deadhead.tasks.lm_eval import (
    check_lm_eval_tasks,
    higher_is_better,
    interval,
    members,
    primary,
    run_lm_eval,
)


@dataclass(frozen=True)
class LmEvalSettings:
    """Which tasks of lm-eval judge as well; see `run_lm_eval`."""

    tasks: tuple[str, ...]
    include_path: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int | None = None
    seed: int = 0
    trust_remote_code: bool = False


def judge_by(task: Task, name: str) -> Judge:
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
    path = None if settings.include_path is None else Path(settings.include_path)
    return check_lm_eval_tasks(settings.tasks, path)


def judge_by_lm_eval(name: str, settings: LmEvalSettings, loaded: Loaded) -> Judge:
    """Judge by a task of lm-eval, or by a group: its own metric, or those of its tasks.

    Raises:
        DataError: when judging, no metric is found.
    """
    options = asdict(settings)
    del options["tasks"]
    options["batch_size"] = settings.batch_size or "auto"
    if settings.include_path is not None:
        options["include_path"] = Path(settings.include_path)

    def judge(model: nn.Module) -> dict[str, Reading]:
        results = run_lm_eval(model, loaded.tokenizer, [name], **options)
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
