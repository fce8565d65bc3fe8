"""What `auto` does: several orders of the heads from one look at a model, and which one to take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deadhead.baseline import no_grams
from deadhead.criteria import Scorer
from deadhead.criteria.divergence import Probe, held_out
from deadhead.criteria.inputs import Batch, aligned, call, to_device, valid_tokens
from deadhead.criteria.losses import Loss
from deadhead.errors import ScoreError
from deadhead.heads import HeadModel
from deadhead.recipe import Recipe
from deadhead.repair import Fits, fit, repaired
from deadhead.strategies import strategy_named
from deadhead.strategies.second_look import half_of
from deadhead.types import HeadMask, count_heads

ORDERS = (
    ("greedy", "reconstruction"),
    ("second_look", "reconstruction"),
    ("greedy", "reconstruction:weight=none"),
    ("one_shot", "taylor"),
    ("one_shot", "fisher"),
    ("one_shot", "gradient_norm"),
)
FORWARD = 1 / 3  # of a forward and backward pass, as is usual
CLEARLY = 1.0  # standard errors of the mean difference


@dataclass(frozen=True)
class Decision:
    """The order that a look at the model decided on.

    Attributes:
        recipe: with its strategy, criterion and loss named.
        mask: what the order leaves.
        divergences: of every order, by `strategy criterion`, in nats per answer.
        passes: over the calibration data that this took, in forward and backward passes.
    """

    recipe: Recipe
    mask: HeadMask
    divergences: Mapping[str, float]
    passes: float

    def describe(self) -> str:
        """Say in one line what was chosen and why."""
        others = dict(self.divergences)
        chosen = f"{self.recipe.strategy} {self.recipe.criterion}"
        own = others.pop(chosen)
        nearest = own <= min(others.values(), default=own)
        why = "nearest to" if nearest else "as near as any, as far as they can tell, to"
        beside = ", ".join(f"{name} {value:.3g}" for name, value in others.items())
        return (
            f"{chosen}, repair {self.recipe.repair}: {why} the dense model's answers to held-out"
            f" calibration texts ({own:.3g} nats; {beside}); {self.passes:.1f} forward+backward"
            " passes over the calibration data"
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"divergences": dict(self.divergences), "passes": self.passes}


class Decider:
    """Decide between orders, at any number of heads, after one look at a model.

    Args:
        view: the model.
        batches: calibration data; gone through once.
        probes: what the orders are compared on; None: the samples that fits hold out.
        loss: what gradient criteria differentiate; None: `kl`, which needs no labels.
        seed, strict, on_batch: as of `Scorer`.
    """

    def __init__(
        self,
        view: HeadModel,
        batches: Iterable[Batch],
        probes: Sequence[Probe] | None = None,
        *,
        loss: str | Loss | None = None,
        seed: int = 0,
        strict: bool = False,
        on_batch: Callable[[], None] | None = None,
    ):
        self.view = view
        data = list(batches)
        self.probes = held_out(data) if probes is None else probes
        self.loss = loss or "kl"
        criteria = [criterion for _, criterion in ORDERS]
        how = {"loss": self.loss, "seed": seed, "strict": strict, "on_batch": on_batch}
        self.scorer = Scorer(view, data, criteria, moments=True, **how)
        self._tokens = _count(data)

    def __call__(self, recipe: Recipe, limit: int) -> Decision:
        """Name the order whose repaired mask of `limit` dropped heads is nearest the dense model.

        Every order is repaired as the recipe says, fitted without the probes, and asked them. The
        first of `ORDERS` stands unless the answers of others are nearer by more than one standard
        error: then the nearest of those. (The rule of Breiman et al. 1984.)

        Cost: the first time a forward and backward pass, one more beyond half of the heads; then
        a forward pass over the probes for the dense model and each mask, of a quarter of the data
        (of pairs, a half).

        Raises:
            BudgetError: the heads cannot be had under the rules.
            ScoreError: there are no probes, as there are fewer than four samples.
        """
        recipe = recipe.settled()
        fitting = self.scorer.moments.fitting
        masks = [self._mask(recipe, *order, limit) for order in ORDERS]
        changes: dict[HeadMask, Fits] = {}
        for mask in masks:
            changes[mask] = fit(self.view, recipe.plan(mask), fitting, _fitted(recipe.repair))
        apart = dict(zip(changes, divergences_of(self.view, self.probes, changes), strict=True))
        best = 0
        for number, mask in enumerate(masks[1:], start=1):
            nearer = _clearly_nearer(apart[mask], apart[masks[0]])
            if nearer and apart[mask].mean() < apart[masks[best]].mean():
                best = number
        asked = _count([probe.batch for probe in self.probes]) * (1 + len(changes))
        named = {
            " ".join(order): float(apart[mask].mean())
            for order, mask in zip(ORDERS, masks, strict=True)
        }
        strategy, criterion = ORDERS[best]
        chosen = replace(recipe, strategy=strategy, criterion=criterion, loss=self.loss)
        looks = 1 + (limit > half_of(self.view.mask))
        return Decision(chosen, masks[best], named, looks + FORWARD * asked / self._tokens)

    def _mask(self, recipe: Recipe, strategy: str, criterion: str, limit: int) -> HeadMask:
        mask = self.view.mask
        moves = strategy_named(strategy)(
            self.view,
            self.scorer.only(criterion),
            no_grams,
            origin=mask,
            start=mask,
            per_step=max(1, count_heads(recipe.per_step, mask.n_heads)),
            limit=limit,
            rules=recipe.rules,
        )
        for move in moves:
            mask = move.mask
        return mask


def divergences_of(
    view: HeadModel, probes: Sequence[Probe], changes: Mapping[HeadMask, Fits]
) -> list[Tensor]:
    """Return how far each of some masks, with its repair, is from the dense model, by answers.

    Shape: (answers,) for each. Unit: nats. Cost: a forward pass over the probes for the dense model
    and for each mask; one batch's answers in memory.

    Raises:
        ScoreError: there are no probes.
    """
    found: list[list[Tensor]] = [[] for _ in changes]
    with view.at_rest(), torch.no_grad():
        for probe in probes:
            batch = aligned(to_device(probe.batch, view.device))
            loss = probe.divergence(call(view.model, batch), batch)
            for values, (mask, fits) in zip(found, changes.items(), strict=True):
                with repaired(view, mask, fits):
                    answers = loss(view.model, call(view.model, batch), batch)
                values.append(answers.cpu().double())
    if not all(found):
        raise ScoreError(
            "there are too few calibration samples to hold any out; give four or more, or name a"
            " --criterion"
        )
    return [torch.cat(values) for values in found]


def _clearly_nearer(new: Tensor, old: Tensor) -> bool:
    """Whether answers are nearer by more than chance: a paired difference."""
    saved = old - new
    if len(saved) < 2:
        return False
    return bool(saved.mean() > CLEARLY * saved.std() / len(saved) ** 0.5)


def _fitted(repair: str) -> str:
    """Return a repair that moments are enough for: orders are compared by it."""
    return repair if repair in ("none", "bias") else "least_squares"


def _count(batches: Iterable[Batch]) -> int:
    return sum(int(valid_tokens(batch).sum()) for batch in batches)
