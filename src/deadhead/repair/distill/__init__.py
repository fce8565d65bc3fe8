"""distill: the cut model trained for a few minutes against the dense one, on unlabelled text."""

from deadhead.repair.distill.run import distill_
from deadhead.repair.distill.settings import Distillation, DistillPoint, DistillReport

__all__ = ["DistillPoint", "DistillReport", "Distillation", "distill_"]
