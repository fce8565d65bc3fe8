"""distill: the cut model trained for a few minutes against the dense one, on unlabeled text."""

from deadhead.options.settings import Distillation
from deadhead.repair.distill.run import DistillPoint, DistillReport, check_packages, distill_
