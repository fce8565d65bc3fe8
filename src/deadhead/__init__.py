"""deadhead: score, choose, mask and remove attention heads of Hugging Face transformers.

Importing it registers the checkpoint loader with transformers and patches nothing.
"""

from deadhead.checkpoints import load_model, register_loader, save_model
from deadhead.criteria import register_criterion
from deadhead.models.architectures import Architecture, register_architecture
from deadhead.models.heads import HeadModel
from deadhead.pruning.choose import choose
from deadhead.pruning.prune import prune
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.result import Pruning
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.repair import repair_
from deadhead.scoring import score, score_all
from deadhead.studies.explain import explain
from deadhead.studies.explanation import Explanation
from deadhead.surgery import applied, apply_, duplicate_, fold_, masked, remove_
from deadhead.tasks import TaskSet, open_task
from deadhead.types import Head, HeadMask, HeadScores, PruningPlan

register_loader()

__version__ = "0.1.0"
__all__ = [
    "Architecture",
    "Explanation",
    "Head",
    "HeadMask",
    "HeadModel",
    "HeadScores",
    "Pruning",
    "PruningPlan",
    "Recipe",
    "Step",
    "TaskSet",
    "Trajectory",
    "applied",
    "apply_",
    "choose",
    "duplicate_",
    "explain",
    "fold_",
    "load_model",
    "masked",
    "open_task",
    "prune",
    "register_architecture",
    "register_criterion",
    "remove_",
    "repair_",
    "save_model",
    "score",
    "score_all",
]
