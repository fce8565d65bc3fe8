"""Budgets other than heads: how much of the model's parameters, cache, work or time may stay."""

from __future__ import annotations

import copy
import inspect
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deadhead.errors import BudgetError, unknown_name
from deadhead.models.heads import Block, HeadModel
from deadhead.surgery import remove_
from deadhead.surgery.groups import policy_named
from deadhead.types import HeadMask, PruningPlan

MEASURES = ("parameters", "kv_bytes", "flops", "latency")
TOKENS = 512  # length of the sequence that flops are counted for
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

    of: str
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
        try:
            keep = float(share[:-1]) / 100 if share.endswith("%") else float(share)
        except ValueError as error:
            raise BudgetError(
                f"{text!r} is not a budget; write what may stay, as parameters=80%"
                f" ({', '.join(MEASURES)})"
            ) from error
        return cls(of, keep)

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


class Gauge:
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
        self._dense = self._count(view.mask) if budget.of != "latency" else 1.0

    def share(self, mask: HeadMask) -> float:
        """Return what a mask leaves, as a share of the dense model's."""
        if self.budget.of == "latency":
            if mask not in self._timed:
                self._timed[mask] = self._latency(mask)
            return self._timed[mask]
        return self._count(mask) / self._dense if self._dense else 0.0

    def met(self, mask: HeadMask) -> bool:
        """Whether no more than the budget is left."""
        return self.share(mask) <= self.budget.keep + 1e-12

    def _count(self, mask: HeadMask) -> float:
        policy = policy_named(self.gqa)
        total = 0.0
        for number, block in enumerate(self.view.blocks):
            kept = tuple(i for i in mask.kept_in(number) if i in block.held.heads)
            slots = len(policy(number, block, kept)) if kept else 0
            total += self._block(block, len(kept), slots)
        return total + self._rest()

    def _block(self, block: Block, heads: int, slots: int) -> float:
        if self.budget.of == "kv_bytes":
            return 2 * slots * block.head_dim
        width = heads * block.head_dim
        sizes = [width * _per_feature(block.query, out=True)]
        sizes += [
            slots * block.head_dim * _per_feature(m, out=True) for m in (block.key, block.value)
        ]
        sizes.append(width * _per_feature(block.output, out=False))
        if self.budget.of == "parameters":
            return sum(sizes)
        return 2 * sum(sizes) + 4 * TOKENS * width  # the maps, and what they average

    def _rest(self) -> float:
        """Return what no head has to do with."""
        if self.budget.of == "kv_bytes":
            return 0.0
        ours = sum(map(self._whole, self.view.blocks))
        tables = (m for m in self.view.model.modules() if isinstance(m, nn.Embedding))
        table = sum(m.weight.numel() for m in tables)
        every = sum(p.numel() for p in self.view.model.parameters())
        if self.budget.of == "parameters":
            return every - ours
        return 2 * max(0, every - ours - table)

    def _whole(self, block: Block) -> float:
        width, slots = block.n_heads * block.head_dim, block.n_kv_heads * block.head_dim
        features = ((block.query, width), (block.key, slots), (block.value, slots))
        return sum(n * _per_feature(m, out=True) for m, n in features) + width * _per_feature(
            block.output, out=False
        )

    def _latency(self, mask: HeadMask) -> float:
        plan = PruningPlan(mask, gqa=self.gqa)
        cut = remove_(copy.deepcopy(self.view.model), plan)
        times: dict[str, list[float]] = {"dense": [], "cut": []}
        for _ in range(REPEATS):  # in turns: a machine that slows down slows both
            for name, model in (("dense", self.view.model), ("cut", cut)):
                times[name].append(_time(model, self.inputs or {}))
        return statistics.median(times["cut"]) / statistics.median(times["dense"])


class Gauges:
    """Several budgets at once: met when each of them is."""

    def __init__(self, each: Sequence[Gauge]):
        self.each = tuple(each)

    def met(self, mask: HeadMask) -> bool:
        """Whether no more than any of the budgets is left."""
        return all(gauge.met(mask) for gauge in self.each)


def _caches(model: nn.Module) -> bool:
    """Whether a model can keep a key/value cache, as far as its signature tells."""
    parameters = inspect.signature(model.forward).parameters
    return "past_key_values" in parameters or not hasattr(model, "config")


def _per_feature(module: nn.Module, *, out: bool) -> int:
    """Return the parameters of one output feature (bias included) or of one input feature."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise BudgetError(
            f"the weights of a {type(module).__name__} cannot be counted; give --heads, or a"
            " latency budget"
        )
    outputs, inputs = weight.shape[::-1] if hasattr(module, "nf") else weight.shape
    return inputs + (getattr(module, "bias", None) is not None) if out else outputs


@torch.no_grad()
def _time(model: nn.Module, inputs: Inputs) -> float:
    _synchronise(model)  # kernels are queued: without this the clock sees the queueing
    begun = time.perf_counter()
    model(**inputs)
    _synchronise(model)
    return time.perf_counter() - begun


def _synchronise(model: nn.Module) -> None:
    device = next(model.parameters()).device
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
