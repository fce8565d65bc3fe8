"""The moves that a recipe makes on a model: how far they go, by heads or by a budget."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from deadhead.data.batches import Batch, to_device
from deadhead.data.inputs import longest_sample
from deadhead.errors import BudgetError, ScoreError, check_name
from deadhead.models.heads import HeadModel
from deadhead.options.values import count_heads
from deadhead.pruning.recipe import AUTO, Recipe
from deadhead.strategies import STRATEGIES, Move, ScoreFn, StrategyContext, droppable, removable
from deadhead.surgery.groups import policy_named
from deadhead.types import HeadMask, PruningPlan

if TYPE_CHECKING:
    from deadhead.measure import Countable
    from deadhead.scoring import Scorer
    from deadhead.similarity import GramFn, HeadGrams

Measured = Literal["parameters", "kv_bytes", "flops", "latency"]
MEASURES: dict[str, str] = {
    "parameters": "parameters of the whole model",
    "kv_bytes": "bytes of key/value cache per token",
    "flops": "multiplications and additions per token, for sequences of 512 tokens",
    "latency": "median time of a forward pass, measured on cut models",
}
REPEATS = 7

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Budget:
    """How much of the dense model may stay, in (0, 1): `parameters=80%`; see `MEASURES`.

    Raises:
        UnknownNameError: another measure.
        BudgetError: a share outside (0, 1).
    """

    of: Measured
    keep: float

    def __post_init__(self) -> None:
        check_name("budget", self.of, MEASURES)
        if not 0 < self.keep < 1:
            raise BudgetError(f"{self.of}={self.keep:g}: a budget keeps a share in (0, 1), as 80%")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `parameters=80%` or `parameters=0.8`."""
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
        """Read one budget, or several of different measures: `parameters=80%,kv_bytes=50%`."""
        found = tuple(cls.parse(part.strip()) for part in text.split(","))
        for of in MEASURES:
            if sum(budget.of == of for budget in found) > 1:
                raise BudgetError(f"budget {text!r} has {of} twice; give each measure once")
        return found

    def __str__(self) -> str:
        return f"{self.of}={self.keep:.4g}"


class BudgetMeter:
    """Measure what a mask would leave of a model, as a share of what the model has now.

    `gqa`, the policy for shared key/value heads, says which of them stay; `inputs` are of the
    forward pass that `latency` times.

    Cost: arithmetic; for `latency` a copy of the model and `2 * REPEATS` forward passes a mask.

    Raises:
        BudgetError: latency without inputs, or kv_bytes of a model without a cache.
    """

    def __init__(self, view: HeadModel, budget: Budget, *, gqa: str, inputs: Inputs | None = None):
        if budget.of == "latency" and inputs is None:
            raise BudgetError("a latency budget needs inputs to time; give data, or another budget")
        taken = inspect.signature(view.model.forward).parameters
        caches = "past_key_values" in taken or not hasattr(view.model, "config")
        if budget.of == "kv_bytes" and not caches:
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
        if of != "latency":
            return self._count(mask, of) / self._dense if self._dense else 0.0
        if mask not in self._timed:
            self._timed[mask] = self._latency(mask)
        return self._timed[mask]

    def met(self, mask: HeadMask) -> bool:
        """Whether no more than the budget is left."""
        return self.share(mask) <= self.budget.keep + 1e-12

    def check(self, mask: HeadMask) -> None:
        """Refuse a budget that is not met where every removable head is removed."""
        if not self.met(mask):
            raise BudgetError(
                f"budget {self.budget} cannot be reached: removing every removable head still"
                f" leaves {self.share(mask):.1%}; ask for more, or change the rules"
            )

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


@dataclass(frozen=True)
class Limits:
    """How far a recipe goes on a model.

    Attributes:
        plan: heads that are removed in the plan, at most.
        curve: heads that are removed at the end of the curve.
        meters: measure the recipe's budgets; all have to be met.
    """

    plan: int
    curve: int
    meters: tuple[BudgetMeter, ...] = ()

    def met(self, mask: HeadMask) -> bool:
        """Whether there are budgets, and no more than any of them is left."""
        return bool(self.meters) and all(meter.met(mask) for meter in self.meters)

    def reached(self, mask: HeadMask) -> bool:
        """Whether a mask is the end of the curve."""
        return self.met(mask) or len(mask.dropped) >= self.curve

    def check(self, mask: HeadMask) -> None:
        """Refuse a mask that the moves ended on without reaching the end.

        Raises:
            BudgetError: a budget is not met; says what is left.
            ScoreError: the other heads have no score.
        """
        self.check_met(mask)
        if not self.meters:
            check_reached(mask, self.curve)

    def check_met(self, mask: HeadMask) -> None:
        """Refuse a mask that does not meet the budgets."""
        for meter in self.meters:
            meter.check(mask)


def limits_of(
    view: HeadModel, recipe: Recipe, batches: Callable[[], Iterable[Batch] | None]
) -> Limits:
    """Find how far a recipe goes; `batches` are looked at for a latency budget only.

    Raises:
        BudgetError: the rules do not let so many heads be removed, or a budget cannot be reached.
    """
    if recipe.makes_groups:
        from deadhead.similarity.distances import check_units  # other strategies need none of it

        check_units(view, recipe.clustering)
    origin, rules = view.mask, recipe.rules
    curve = droppable(view, origin, rules, recipe.heads if recipe.budget is None else 1.0)
    budgets, inputs = Budget.parse_all(recipe.budget) if recipe.budget is not None else (), None
    if any(budget.of == "latency" for budget in budgets):
        one = longest_sample(view.model, list(batches() or ()))
        inputs = None if one is None else to_device(one, view.device)
    meters = [BudgetMeter(view, budget, gqa=recipe.gqa, inputs=inputs) for budget in budgets]
    everything = (head for unit in removable(view, origin, rules) for head in unit)
    barest = origin.drop(*everything) if meters else origin
    for meter in meters:
        if meter.budget.of != "latency":
            meter.check(barest)  # refused before any work
    plan = curve if recipe.cut is None else droppable(view, origin, rules, recipe.cut)
    if plan > curve:
        raise BudgetError(
            f"cut={recipe.cut!r} is more than the heads={recipe.heads!r} of the curve; ask for less"
        )
    return Limits(plan, curve, tuple(meters))


def check_reached(mask: HeadMask, limit: int) -> None:
    """Refuse a mask that a strategy left short of its limit, as the other heads have no score."""
    if len(mask.dropped) < limit:
        raise ScoreError(
            f"only {len(mask.dropped)} of {limit} heads can be removed: the others have no score;"
            " score every head, or ask for fewer"
        )


def prompt_grams(
    view: HeadModel,
    prompts: Iterable[Batch] | None,
    recipe: Recipe,
    on_batch: Callable[[], None] | None = None,
) -> GramFn:
    """Return what runs the prompts that the strategy `clusters` compares heads on."""

    def grams(scope: str) -> HeadGrams:
        from deadhead.similarity.gram import head_grams

        clustering = recipe.clustering
        return head_grams(
            view,
            prompts or (),
            scope=scope,
            include_padding=clustering.include_padding,
            first_token=clustering.first_token,
            on_batch=on_batch,
        )

    return grams


def context_of(
    view: HeadModel,
    recipe: Recipe,
    score: ScoreFn,
    *,
    scorer: Scorer | None = None,
    grams: GramFn | None = None,
    start: HeadMask | None = None,
    limit: int = 0,
    history: Sequence[HeadMask] = (),
) -> StrategyContext:
    """Return what a recipe's strategy works with; see `StrategyContext`."""
    origin = view.mask
    return StrategyContext(
        view=view,
        score=score,
        rules=recipe.rules,
        origin=origin,
        start=origin if start is None else start,
        limit=limit,
        per_step=max(1, count_heads(recipe.per_step, origin.n_heads)),
        scorer=scorer,
        grams=grams,
        history=history,
    )


def moves_within(context: StrategyContext, strategy: str, limits: Limits) -> Iterator[Move]:
    """Return a strategy's moves to the limits; a move ends on each limit.

    A strategy that is not nested makes one: under a budget, to where greedy ones would meet it.
    """
    ends: tuple[int, ...] = (limits.plan, limits.curve)
    single = limits.meters and not STRATEGIES[strategy].nested
    if single and not limits.met(context.start):
        for move in moves_to(context, "greedy", ends):
            if limits.met(move.mask):
                ends = (len(move.mask.dropped),)
                break
    return moves_to(context, strategy, ends)


def moves_to(context: StrategyContext, strategy: str, limits: Sequence[int]) -> Iterator[Move]:
    """Chain a strategy's moves up to each limit in turn, so that a move ends on each."""
    mask = context.start
    for limit in sorted(set(limits)):
        if len(mask.dropped) >= limit:
            continue
        for move in STRATEGIES[strategy](replace(context, start=mask, limit=limit)):
            yield move
            mask = move.mask


def count_moves(view: HeadModel, recipe: Recipe, limits: Limits) -> int:
    """Count the moves of a recipe; under a budget, the most that they can be."""
    ends = sorted({limits.plan, limits.curve})
    if recipe.strategy != AUTO and not STRATEGIES[recipe.strategy].nested:
        return len(ends)
    sizes = map(len, removable(view, view.mask, recipe.rules))
    size = max(1, count_heads(recipe.per_step, view.mask.n_heads), *sizes)
    starts = [len(view.mask.dropped), *ends]
    return sum(math.ceil((end - start) / size) for start, end in zip(starts, ends, strict=False))


def count_scorings(view: HeadModel, recipe: Recipe) -> int:
    """Count the passes over the calibration data that choosing makes, as far as that is known."""
    if not recipe.needs_scores:
        return 0
    spec = recipe.spec
    if spec is None or not STRATEGIES[recipe.strategy].rescores or spec.scores_masks:
        return 1
    heads = recipe.heads if recipe.budget is None else 1.0
    limit = droppable(view, view.mask, recipe.rules, heads)
    return count_moves(view, replace(recipe, strategy="greedy"), Limits(limit, limit))
