"""What `auto` does: several orders of the heads from one look at a model, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from deadhead.data.batches import Batch, valid_tokens
from deadhead.display import Brief
from deadhead.errors import DataError, ScoreError
from deadhead.losses.losses import Loss, Probe, held_out
from deadhead.models.heads import HeadModel
from deadhead.pruning.judges import divergences_of
from deadhead.pruning.moves import context_of
from deadhead.pruning.recipe import Recipe
from deadhead.repair import REPAIRS, Fits, fit, repaired, without_training
from deadhead.scoring import ScorerGroup
from deadhead.scoring.passes import PassSettings
from deadhead.strategies import STRATEGIES
from deadhead.strategies.base import half_of
from deadhead.types import HeadMask, PruningPlan

ORDERS = (
    ("greedy", "reconstruction"),
    ("second_look", "reconstruction"),
    ("greedy", "reconstruction:weight=none"),
    ("one_shot", "taylor"),
    ("one_shot", "fisher"),
    ("one_shot", "gradient_norm"),
)
LOSS = "kl"  # needs no labels
FORWARD = 1 / 3  # of a forward and backward pass, as is usual
FEW = "there are too few calibration samples to hold any out and compare orders on"
CLEARLY = 1.0  # standard errors of the mean difference


@dataclass(frozen=True, repr=False)
class AutoChoice(Brief):
    """The order that a look at the model decided on.

    Attributes:
        recipe: with its strategy, criterion and loss named.
        mask: what the order leaves.
        divergences: of every order, by `strategy criterion`, in nats per answer; empty if there was
            nothing to compare.
        passes: over the calibration data that this took, in forward and backward passes.
        few: whether there were too few samples to compare on.
    """

    recipe: Recipe
    mask: HeadMask
    divergences: Mapping[str, float]
    passes: float
    few: bool = False

    def describe(self) -> str:
        """Say in one line what was chosen and why."""
        others = dict(self.divergences)
        chosen = f"{self.recipe.strategy} {self.recipe.criterion}"
        own = others.pop(chosen, None)
        why = FEW if self.few else "orders leave the same heads, or answers cannot be compared"
        if own is not None:
            nearest = own <= min(others.values(), default=own)
            near = "nearest to" if nearest else "as near as any, as far as they can tell, to"
            beside = ", ".join(f"{name} {value:.3g}" for name, value in others.items())
            why = f"{near} the dense model's answers to held-out calibration texts ({own:.3g} nats;"
            why += f" {beside})"
        return (
            f"{chosen}, repair {self.recipe.repair}: {why}; chosen in {self.passes:.1f}"
            " forward+backward passes over the calibration data"
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value; with the recipe that was to be decided, `from_json` reads it."""
        return {
            "strategy": self.recipe.strategy,
            "criterion": self.recipe.criterion,
            "mask": self.mask.to_json(),
            "divergences": dict(self.divergences),
            "passes": self.passes,
            "few": self.few,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], recipe: Recipe) -> AutoChoice:
        """Read what `to_json` returned, of a decision on this recipe."""
        made = _made(recipe.settled(), (data["strategy"], data["criterion"]))
        return cls(
            made, HeadMask.of(data["mask"]), data["divergences"], data["passes"], few=data["few"]
        )


class AutoSelector:
    """Decide between orders, at any number of heads, after one look at a model.

    The orders are compared on `probes`; None: the samples of `batches` that fits hold out. Gradient
    criteria differentiate `loss`; None: `kl`, which needs no labels.
    """

    def __init__(
        self,
        view: HeadModel,
        batches: Iterable[Batch],
        probes: Sequence[Probe] | None = None,
        *,
        loss: str | Loss | None = None,
        settings: PassSettings | None = None,
    ):
        data = list(batches)
        self.view, self.loss = view, loss or LOSS
        self.probes = held_out(data) if probes is None else probes
        self.strict = settings is not None and settings.strict
        names = [criterion for _, criterion in ORDERS]
        self.scorers = ScorerGroup(
            view, data, names, loss=self.loss, moments=True, settings=settings
        )
        self._tokens = _count(data)

    def __call__(self, recipe: Recipe, limit: int) -> AutoChoice:
        """Name the order whose repaired mask of `limit` dropped heads is nearest the dense model.

        Every order is repaired as the recipe says, fitted without the probes, and asked them. The
        first of `ORDERS` stands unless the answers of others are nearer by more than one standard
        error: then the nearest of those (the rule of Breiman et al. 1984). The first order is taken
        where there is nothing to ask (fewer than four samples), or all orders leave the same.
        Orders that the data cannot make are left out.

        Cost: the first time a forward and backward pass, one more beyond half of the heads; then
        a forward pass over the probes for the dense model and each mask, of a quarter of the data
        (of pairs, a half).

        Raises:
            BudgetError: the rules do not allow removing so many heads.
            DataError: `strict`, and there are too few samples to hold any out.
            ScoreError: the data can make no order.
        """
        recipe = recipe.settled()
        masks = self._masks(recipe, limit)
        distinct = list(dict.fromkeys(masks.values()))
        apart: dict[HeadMask, Tensor] = {}
        if len(distinct) > 1 and self.probes:
            fits = (self._fits(recipe.plan(mask)) for mask in distinct)
            changes = dict(zip(distinct, fits, strict=True))
            contexts = [partial(repaired, self.view, mask, f) for mask, f in changes.items()]
            found = divergences_of(self.view, self.probes, contexts)
            apart = dict(zip(changes, found, strict=True))
        elif len(distinct) > 1 and self.strict:
            raise DataError(f"{FEW}; give four or more, or go on all the same without strict")
        asked = _count([probe.batch for probe in self.probes]) * (1 + len(apart)) if apart else 0
        looks = 1 + (limit > half_of(self.view.mask))
        order = _nearest({order: apart[mask] for order, mask in masks.items() if mask in apart})
        order = order or next(iter(masks))
        chosen = _made(replace(recipe, loss=self.loss), order)
        named = {" ".join(o): float(apart[m].mean()) for o, m in masks.items() if m in apart}
        named = {name: value for name, value in named.items() if math.isfinite(value)}
        passes = looks + FORWARD * asked / self._tokens
        return AutoChoice(chosen, masks[order], named, passes, few=not self.probes)

    def run_pass(self) -> float:
        """Make the pass over the dense model, unless it has been made; return its seconds."""
        return self.scorers.of(ORDERS[0][1]).run_pass()

    def _masks(self, recipe: Recipe, limit: int) -> dict[tuple[str, str], HeadMask]:
        """Return what each order leaves; without those that these data cannot make."""
        masks: dict[tuple[str, str], HeadMask] = {}
        for number, order in enumerate(ORDERS, start=1):
            try:
                masks[order] = self._mask(recipe, *order, limit)
            except ScoreError:
                if number == len(ORDERS) and not masks:
                    raise
        return masks

    def _fits(self, plan: PruningPlan) -> Fits:
        """Fit a repair without the probes, in the numbers that it will be written in."""
        plan = without_training(plan)
        if REPAIRS[plan.repair].fit_plan is not None:  # moments are enough to compare orders by
            plan = replace(plan, repair="least_squares")
        fits = fit(self.view, plan, self.scorers.moments.fitting)
        return {n: f.to(self.view.output_weight(n).dtype) for n, f in fits.items()}

    def _mask(self, recipe: Recipe, strategy: str, criterion: str, limit: int) -> HeadMask:
        mask = self.view.mask
        scorer = self.scorers.of(criterion)
        context = context_of(self.view, recipe, scorer, scorer=scorer, limit=limit)
        for move in STRATEGIES[strategy](context):
            mask = move.mask
        return mask


def _nearest(apart: Mapping[tuple[str, str], Tensor]) -> tuple[str, str] | None:
    """Return the first order, or of those that are clearly nearer the nearest; None if none is."""
    sound = {order: values for order, values in apart.items() if values.isfinite().all()}
    if not sound:
        return None
    first = next(iter(sound))
    nearer = [o for o in sound if _clearly_nearer(sound[o], sound[first])]
    return min([first, *nearer], key=lambda order: float(sound[order].mean()))


def _clearly_nearer(new: Tensor, old: Tensor) -> bool:
    """Whether answers are nearer by more than chance: a paired difference."""
    saved = old - new
    few = len(saved) < 2
    return not few and bool(saved.mean() > CLEARLY * saved.std() / len(saved) ** 0.5)


def _made(recipe: Recipe, order: tuple[str, str]) -> Recipe:
    """Return a recipe with its order named."""
    strategy, criterion = order
    return replace(recipe, strategy=strategy, criterion=criterion, loss=recipe.loss or LOSS)


def _count(batches: Iterable[Batch]) -> int:
    return sum(int(valid_tokens(batch).sum()) for batch in batches)
