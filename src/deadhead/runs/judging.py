"""What judges the models of a sweep: tasks, and tasks of lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from deadhead.checkpoints import Loaded
from deadhead.errors import DataError
from deadhead.runs.sweep_settings import LmEvalSettings
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
    return run_lm_eval(
        model,
        tokenizer,
        names,
        include_path=settings.include_path,
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        batch_size=settings.batch_size or "auto",
        seed=settings.seed,
        trust_remote_code=settings.trust_remote_code,
    )


def lm_eval_judge(name: str, settings: LmEvalSettings, loaded: Loaded) -> Judge:
    """Judge by a task of lm-eval, or by a group: its own metric, or those of its tasks.

    Raises:
        DataError: when judging, no metric is found.
    """

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
