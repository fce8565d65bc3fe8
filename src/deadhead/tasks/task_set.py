"""The tasks of one run: what it calibrates on, selects by, trains on and reports."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deadhead.data.splits import ROLES
from deadhead.display import Brief
from deadhead.errors import DataError
from deadhead.tasks.judging import Judging
from deadhead.tasks.metrics import ComputeMetrics
from deadhead.tasks.task import Task


@dataclass(frozen=True, repr=False)
class TaskSet(Brief):
    """Disjoint sets of one kind: to score on, to stop by, and to report once.

    Attributes:
        calibration: what criteria score on and repairs fit.
        selection: what decides when to stop; None where the data has no such split.
        test: what is reported; None where nothing can be judged, as the data have no labels.
        notes: how the rows were divided, and what was removed for it.
        training: what `distill` trains on: all of what the calibration set was drawn from, or text
            of its own, disjoint from selection and test too; None: the calibration set.
        held_out: without a test set, data to compare a pruned model with the dense one on.
    """

    calibration: Task
    selection: Task | None
    test: Task | None
    notes: tuple[str, ...] = ()
    training: Task | None = None
    held_out: Task | None = None

    @property
    def judge(self) -> Task:
        """The test set."""
        if self.test is None:
            raise DataError(
                f"nothing can be judged: {self.calibration.name!r} has no labels; give a test set"
            )
        return self.test

    def describe(self, *, trains: bool = False) -> str:
        """Say what came from where, a line per set; of the training set if anything is trained."""
        judged = f"{self.test.kind}, judged by {self.test.metric}" if self.test else ""
        roles = [*ROLES, *(["training"] if trains and self.training else [])]
        lines = [judged or "data without labels: judged by how near the model is to the dense one"]
        for role in roles if judged else [*roles, "held_out"]:
            task = getattr(self, role)
            of = task and f"{task.size} examples of {task.name}, fingerprint {task.fingerprint}"
            lines.append(f"  {role}: {of or 'none'}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.describe()


def judged_by(
    tasks: TaskSet,
    compute_metrics: ComputeMetrics | None = None,
    metric: str | None = None,
    greater_is_better: bool | None = None,
) -> TaskSet:
    """Return tasks that judge by another metric; see `open_task`.

    Raises:
        DataError: nothing is judged, or not by metrics that can be chosen.
        UnknownNameError: there is no such metric.
    """
    if compute_metrics is None and metric is None and greater_is_better is None:
        return tasks
    _ = tasks.judge if tasks.test is None else None  # refuses
    changed = {}
    for role in ("selection", "test"):
        task = getattr(tasks, role)
        if task is not None and not isinstance(task, Judging):
            raise DataError(
                f"a {type(task).__name__} judges by its own metric {task.metric!r}; leave"
                " compute_metrics, metric and greater_is_better out"
            )
        changed[role] = task and task.judged_by(compute_metrics, metric, greater_is_better)
    return replace(tasks, **changed)
