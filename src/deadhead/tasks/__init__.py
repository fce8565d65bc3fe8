"""What a model is judged on and calibrated with.

A task is data of one kind with a metric; `open_task` makes the three disjoint ones of a run.
"""

from deadhead.display import Names, listed_when_called
from deadhead.tasks.classification import ClassificationTask
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.given import as_tasks
from deadhead.tasks.minimal_pairs import MinimalPairsTask
from deadhead.tasks.opening import TaskSet, infer_kind, open_calibration, open_task
from deadhead.tasks.perplexity import PerplexityTask
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
