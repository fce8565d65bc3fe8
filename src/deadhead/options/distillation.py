"""How a cut model is trained against the dense one, as plain values."""

from __future__ import annotations

import math
from functools import partial

from deadhead.errors import BudgetError
from deadhead.options.fields import option, settings
from deadhead.options.flags import seed_option
from deadhead.options.panels import DISTILL

RANK = 8  # of `lora=True`


of_distill = partial(option, panel=DISTILL, group="distill")


@settings
class Distillation:
    """How a cut model is trained against the dense one.

    Attributes:
        max_steps: optimizer steps, instead of `epochs`.
        warmup: fraction of the steps in which the learning rate rises; then it falls to zero.
        batch_size: samples per step at most; batches are split, never merged.
        logits_weight: weight of the divergence from the dense logits.
        outputs_weight: weight of the relative error of the attention blocks' outputs.
        temperature: of the softmax that logits are compared by.
        dropout: whether the cut model trains with the dropout of its config.
        evaluations: how often the selection set is evaluated, evenly over the steps.
        patience: stop after so many evaluations without a better one; None: never. The metric often
            dips while the learning rate is high.

    Raises:
        BudgetError: a value with which nothing could be trained.
    """

    epochs: int = of_distill(default=2, help="How often distill sees every text.")
    learning_rate: float = of_distill(
        default=2e-4,
        help="Peak learning rate of distill: the default is for small models and full training;"
        " 1e-3 for --lora, 2e-5 for billions of parameters.",
    )
    seconds: float | None = of_distill(
        default=None,
        help="Time limit of distill in seconds, evaluations included; with one, runs on different"
        " machines differ.",
    )
    lora: int = of_distill(
        default=0,
        help="Rank of adapters that distill trains instead of the weights (8 is usual); 0: none.",
    )
    max_steps: int | None = None
    warmup: float = 0.05
    batch_size: int = 32
    logits_weight: float = 1.0
    outputs_weight: float = 1.0
    temperature: float = 1.0
    dropout: bool = False
    evaluations: int = 8
    patience: int | None = None
    seed: int = seed_option()

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluations", "max_steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BudgetError(f"{name} {value!r} of distill trains nothing; give 1 or more")
        for name in ("learning_rate", "temperature", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BudgetError(f"{name} {value!r} of distill is no positive number; give one")
        if not 0 <= self.warmup < 1:
            raise BudgetError(f"warmup {self.warmup!r} of distill is not in [0, 1); 0.05 is usual")
        if min(self.logits_weight, self.outputs_weight) < 0 or not self.weights > 0:
            raise BudgetError(
                f"logits_weight {self.logits_weight!r} and outputs_weight {self.outputs_weight!r}"
                " leave distill nothing to learn; give numbers from 0, not both 0"
            )
        if self.lora < 0:
            raise BudgetError(f"lora {self.lora!r} of distill is no rank; give 8, or 0 for none")

    @property
    def weights(self) -> float:
        """Sum of both weights."""
        return self.logits_weight + self.outputs_weight

    @property
    def rank(self) -> int:
        """Rank of the adapters; 0 is none."""
        return RANK if self.lora is True else int(self.lora)
