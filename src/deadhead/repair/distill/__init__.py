"""distill: the cut model trained for a few minutes against the dense one, on unlabeled text."""

from deadhead.options.settings import Distillation
from deadhead.repair.distill.report import DistillPoint, DistillReport
from deadhead.repair.distill.run import check_packages, distill_

__all__ = ["DistillPoint", "DistillReport", "Distillation", "check_packages", "distill_"]
