"""distill: the cut model trained for a few minutes against the dense one, on unlabelled text."""

from deadhead.repair.distill.run import check_packages, distill_
from deadhead.repair.distill.settings import Distillation, DistillPoint, DistillReport

__all__ = ["DistillPoint", "DistillReport", "Distillation", "check_packages", "distill_"]
