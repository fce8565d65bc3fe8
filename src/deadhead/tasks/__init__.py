"""What a model is judged on and calibrated with.

A task is data of one kind with a metric; `open_task` makes the three disjoint ones of a run.
"""

from deadhead.display import Names, listed_when_called
from deadhead.tasks.classification import ClassificationTask
from deadhead.tasks.embeddings import EmbeddingsTask
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.given import as_tasks
from deadhead.tasks.image_classification import ImageClassificationTask
from deadhead.tasks.kinds import infer_kind
from deadhead.tasks.language_models import MinimalPairsTask, PerplexityTask
from deadhead.tasks.masked_lm import MaskedLMTask
from deadhead.tasks.multi_label import MultiLabelTask
from deadhead.tasks.multiple_choice import MultipleChoiceTask
from deadhead.tasks.opening import open_calibration, open_task
from deadhead.tasks.question_answering import QuestionAnsweringTask
from deadhead.tasks.regression import RegressionTask
from deadhead.tasks.seq2seq import Seq2SeqTask
from deadhead.tasks.speech_recognition import SpeechTask
from deadhead.tasks.task import KINDS, BatchedTask, Task, register_task
from deadhead.tasks.task_set import TaskSet, judged_by
from deadhead.tasks.token_classification import TokenClassificationTask

__all__ = [
    "KINDS",
    "BatchedTask",
    "ClassificationTask",
    "EmbeddingsTask",
    "Evaluation",
    "ImageClassificationTask",
    "MaskedLMTask",
    "MinimalPairsTask",
    "MultiLabelTask",
    "MultipleChoiceTask",
    "PerplexityTask",
    "QuestionAnsweringTask",
    "RegressionTask",
    "Seq2SeqTask",
    "SpeechTask",
    "Task",
    "TaskSet",
    "TokenClassificationTask",
    "as_tasks",
    "infer_kind",
    "judged_by",
    "open_calibration",
    "open_task",
    "register_task",
]

listed_when_called(__name__, lambda: Names(KINDS.described()))
