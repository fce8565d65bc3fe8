"""What a model is judged on and calibrated with.

A task is data of one kind with a metric; `open_task` makes the three disjoint ones of a run.
"""

from deadhead.display import Names, listed_when_called
from deadhead.tasks.classification import ClassificationTask
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.given import as_tasks
from deadhead.tasks.language_models import MinimalPairsTask, PerplexityTask
from deadhead.tasks.opening import TaskSet, infer_kind, open_calibration, open_task
from deadhead.tasks.task import KINDS, BatchedTask, Task, register_task

__all__ = [
    "KINDS",
    "BatchedTask",
    "ClassificationTask",
    "Evaluation",
    "MinimalPairsTask",
    "PerplexityTask",
    "Task",
    "TaskSet",
    "as_tasks",
    "infer_kind",
    "open_calibration",
    "open_task",
    "register_task",
]

listed_when_called(__name__, lambda: Names(KINDS.described()))
