"""Budgets other than heads: how much of the model's parameters, cache, work or time may stay."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from torch import Tensor, nn

from deadhead.errors import BudgetError, unknown_name
from deadhead.models.heads import HeadModel
from deadhead.surgery.groups import policy_named
from deadhead.types import HeadMask, PruningPlan

if TYPE_CHECKING:
    from deadhead.measure import Countable

Measured = Literal["parameters", "kv_bytes", "flops", "latency"]
MEASURES: tuple[Measured, ...] = get_args(Measured)
REPEATS = 7

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Budget:
    """How much of the dense model may stay: `parameters=80%`.

    Attributes:
        of: `parameters` (all of the model's), `kv_bytes` (cache per token), `flops`
            (multiplications and additions per token, for sequences of 512), `latency` (measured:
            the median time of a forward pass of the model, really cut).
        keep: share of the dense model's, in (0, 1).

    Raises:
        UnknownNameError: another measure.
        BudgetError: a share outside (0, 1).
    """

    of: Measured
    keep: float

    def __post_init__(self) -> None:
        if self.of not in MEASURES:
            raise unknown_name("budget", self.of, MEASURES)
        if not 0 < self.keep < 1:
            raise BudgetError(f"{self.of}={self.keep:g}: a budget keeps a share in (0, 1), as 80%")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `parameters=80%` or `parameters=0.8`.

        Raises:
            BudgetError: it is not of this form.
        """
        of, _, share = text.partition("=")
        named: Any = of  # checked by the constructor
        try:
            keep = float(share[:-1]) / 100 if share.endswith("%") else float(share)
        except ValueError as error:
            raise BudgetError(
                f"{text!r} is not a budget; write what may stay, as parameters=80%"
                f" ({', '.join(MEASURES)})"
            ) from error
        return cls(named, keep)

    @classmethod
    def parse_all(cls, text: str) -> tuple[Budget, ...]:
        """Read one budget or several: `parameters=80%,kv_bytes=50%`.

        Raises:
            BudgetError: one is not of this form, or two are of the same measure.
        """
        found = tuple(cls.parse(part.strip()) for part in text.split(","))
        for of in MEASURES:
            if sum(budget.of == of for budget in found) > 1:
                raise BudgetError(f"budget {text!r} has {of} twice; give each measure once")
        return found

    def __str__(self) -> str:
        return f"{self.of}={self.keep:.4g}"


class BudgetMeter:
    """Measure what a mask would leave of a model, as a share of what the model has now.

    Args:
        view: the model.
        budget: what is measured.
        gqa: policy for shared key/value heads, which says which of them stay.
        inputs: of the forward pass that `latency` times.

    Cost: arithmetic; for `latency` a copy of the model and `2 * REPEATS` forward passes a mask.

    Raises:
        BudgetError: latency without inputs, or kv_bytes of a model without a cache.
    """

    def __init__(self, view: HeadModel, budget: Budget, *, gqa: str, inputs: Inputs | None = None):
        if budget.of == "latency" and inputs is None:
            raise BudgetError("a latency budget needs inputs to time; give data, or another budget")
        if budget.of == "kv_bytes" and not _caches(view.model):
            raise BudgetError(
                f"budget {budget}: {type(view.model).__name__} keeps no keys and values from token"
                " to token; give parameters=, flops= or latency="
            )
        self.view, self.budget, self.gqa, self.inputs = view, budget, gqa, inputs
        self._timed: dict[HeadMask, float] = {}
        self._dense = 1.0 if budget.of == "latency" else self._count(view.mask, budget.of)

    def share(self, mask: HeadMask) -> float:
        """Return what a mask leaves, as a share of the dense model's."""
        of = self.budget.of
        if of == "latency":
            if mask not in self._timed:
                self._timed[mask] = self._latency(mask)
            return self._timed[mask]
        return self._count(mask, of) / self._dense if self._dense else 0.0

    def met(self, mask: HeadMask) -> bool:
        """Whether no more than the budget is left."""
        return self.share(mask) <= self.budget.keep + 1e-12

    def _count(self, mask: HeadMask, of: Countable) -> float:
        from deadhead.measure.size import count_left

        policy = policy_named(self.gqa)
        heads = []
        for number, block in enumerate(self.view.blocks):
            kept = tuple(i for i in mask.kept_in(number) if i in block.original.heads)
            heads.append((len(kept), len(policy(number, block, kept)) if kept else 0))
        return count_left(self.view, of, heads)

    def _latency(self, mask: HeadMask) -> float:
        from deadhead.measure.latency import paired_seconds
        from deadhead.surgery.remove import remove_

        cut = remove_(copy.deepcopy(self.view.model), PruningPlan(mask, gqa=self.gqa))
        times = paired_seconds(self.view.model, cut, self.inputs or {}, repeats=REPEATS)
        dense, left = np.median(times, axis=0)
        return float(left / dense)


class BudgetMeters:
    """Several budgets at once: met when each of them is."""

    def __init__(self, each: Sequence[BudgetMeter]):
        self.each = tuple(each)

    def met(self, mask: HeadMask) -> bool:
        """Whether no more than any of the budgets is left."""
        return all(meter.met(mask) for meter in self.each)


def _caches(model: nn.Module) -> bool:
    """Whether a model can keep a key/value cache, as far as its signature tells."""
    parameters = inspect.signature(model.forward).parameters
    return "past_key_values" in parameters or not hasattr(model, "config")
