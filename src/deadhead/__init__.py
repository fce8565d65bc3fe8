"""deadhead: score, choose, mask and remove attention heads of Hugging Face transformers.

    import deadhead
    result = deadhead.prune(model, texts, tokenizer=tokenizer, heads=0.5)
    result.model.save_pretrained("small")

Importing it registers the checkpoint loader with transformers and patches nothing. Names are
imported when they are used.
"""

from typing import TYPE_CHECKING

from deadhead.checkpoints.registering import register_when_ready
from deadhead.files import lazy_exports

if TYPE_CHECKING:
    from deadhead.checkpoints.load import load_model
    from deadhead.checkpoints.save import save_model
    from deadhead.criteria.base import register_criterion
    from deadhead.data.given import as_batches
    from deadhead.derivation.code import derive_record
    from deadhead.exports.formats import export
    from deadhead.models.architectures import Architecture, register_architecture
    from deadhead.models.heads import HeadModel
    from deadhead.options.settings import Clustering, Distillation
    from deadhead.pruning.names import (
        actions,
        architectures,
        budgets,
        criteria,
        groupings,
        losses,
        repairs,
        strategies,
        tasks,
    )
    from deadhead.pruning.prune import choose, evaluate, prune
    from deadhead.pruning.recipe import Recipe
    from deadhead.pruning.result import Pruning
    from deadhead.pruning.trajectory import Step, Trajectory
    from deadhead.repair.write import repair_
    from deadhead.scoring.scorer import score, score_all
    from deadhead.studies.explain import explain
    from deadhead.studies.explanation import Explanation
    from deadhead.surgery.apply import applied, apply_
    from deadhead.surgery.duplicate import duplicate_
    from deadhead.surgery.fold import fold_
    from deadhead.surgery.mask import mask_, masked
    from deadhead.surgery.remove import remove_
    from deadhead.tasks.given import as_tasks
    from deadhead.tasks.opening import open_task
    from deadhead.tasks.task_set import TaskSet
    from deadhead.types import Head, HeadMask, HeadScores, PruningPlan

register_when_ready()

__version__ = "0.1.0"
__getattr__, __dir__ = lazy_exports(__name__, __file__)
__all__ = list(__dir__())
