"""What `auto` does: several orders of the heads from one look at a model, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from deadhead.repair import REPAIRS, Fits, fit, own_share, repaired, without_training
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
LIKE_SEQUENTIAL = "least_squares:own=0:bias=true"
CLEARLY = 1.0  # standard errors of the mean difference


@dataclass(frozen=True, repr=False)
class AutoChoice(Brief):
    """The order that a look at the model decided on.

    Attributes:
        recipe: with its strategy, criterion and loss named.
        mask: what the order leaves.
        divergences: of every order, by `strategy criterion`, in nats per answer; empty if there was
            nothing to compare.
        passes: over the calibration data that this took, in forward and backward passes; the text
            that the repair makes itself is counted too.
        few: whether there were too few samples to compare on.
        own: divergences on text of the model's own making, as `divergences`; empty if the repair
            uses none.
        own_text: what that text is, such as `texts that the model wrote itself`; empty if none.
    """

    recipe: Recipe
    mask: HeadMask
    divergences: Mapping[str, float]
    passes: float
    few: bool = False
    own: Mapping[str, float] = field(default_factory=dict)
    own_text: str = ""

    def describe(self) -> str:
        """Say in one line what was chosen and why."""
        chosen = f"{self.recipe.strategy} {self.recipe.criterion}"
        why = FEW if self.few else "orders leave the same heads, or answers cannot be compared"
        if chosen in self.divergences:
            nearest = self.divergences[chosen] <= min(self.divergences.values())
            near = "nearest to" if nearest else "as near as any, as far as they can tell, to"
            why = f"{near} the dense model's answers to held-out calibration texts"
            why += f" ({_beside(self.divergences, chosen)})"
            if chosen in self.own:
                why += f" and, where those cannot tell, to {self.own_text}"
                why += f" ({_beside(self.own, chosen)})"
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
            "own": dict(self.own),
            "own_text": self.own_text,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], recipe: Recipe) -> AutoChoice:
        """Read what `to_json` returned, of a decision on this recipe."""
        made = _made(recipe.settled(), (data["strategy"], data["criterion"]))
        mask, own = HeadMask.of(data["mask"]), (data.get("own", {}), data.get("own_text", ""))
        return cls(made, mask, data["divergences"], data["passes"], data["few"], *own)


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
        error: then the nearest of those (the rule of Breiman et al. 1984). Where the repair keeps
        to text of the model's own making, answers to that decide between the orders that are not
        clearly farther than this one, by the same rule. The first order is taken where there is
        nothing to ask (fewer than four samples), or all orders leave the same. Orders that the data
        cannot make are left out.

        Cost: the first time a forward and backward pass, one more beyond half of the heads; then
        a forward pass over the probes for the dense model and each mask, of a quarter of the data
        (of pairs, a half). A repair that keeps to its own text adds about one pass in all.

        Raises:
            BudgetError: the rules do not allow removing so many heads.
            DataError: `strict`, and there are too few samples to hold any out.
            ScoreError: the data can make no order.
        """
        recipe = recipe.settled()
        masks = self._masks(recipe, limit)
        distinct = list(dict.fromkeys(masks.values()))
        own, share = self.scorers.own_text, own_share(recipe.repair)
        apart: dict[HeadMask, list[Tensor]] = {}
        streams = [self.probes]
        if len(distinct) > 1 and self.probes:
            if share and own.probes:
                streams.append(own.probes)
            contexts = [
                partial(repaired, self.view, mask, self._fits(recipe.plan(mask)))
                for mask in distinct
            ]
            found = [divergences_of(self.view, probes, contexts) for probes in streams]
            apart = dict(zip(distinct, map(list, zip(*found, strict=True)), strict=True))
        elif len(distinct) > 1 and self.strict:
            raise DataError(f"{FEW}; give four or more, or go on all the same without strict")
        answers = {order: apart[mask] for order, mask in masks.items() if mask in apart}
        order = _chosen(answers) or next(iter(masks))
        told = [_means(answers, stream) for stream in range(len(streams))]
        return AutoChoice(
            recipe=_made(replace(recipe, loss=self.loss), order),
            mask=masks[order],
            divergences=told[0],
            passes=self._passes(limit, streams, len(apart)),
            few=not self.probes,
            own=told[1] if told[1:] else {},
            own_text=own.described if told[1:] else "",
        )

    def _passes(self, limit: int, streams: Sequence[Sequence[Probe]], masks: int) -> float:
        """Return what was done, in forward and backward passes over the calibration data."""
        tokens = 0
        if masks:
            asked = (probe.batch for probes in streams for probe in probes)
            tokens = _count(asked) * (1 + masks)
        if len(streams) > 1:
            tokens += self.scorers.own_text.tokens * (1 + self.scorers.own_text.is_written)
        return 1 + (limit > half_of(self.view.mask)) + FORWARD * tokens / self._tokens

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
            plan = replace(plan, repair=LIKE_SEQUENTIAL)
        fits = fit(self.view, plan, self.scorers.moments.fitting)
        return {n: f.to(self.view.output_weight(n).dtype) for n, f in fits.items()}

    def _mask(self, recipe: Recipe, strategy: str, criterion: str, limit: int) -> HeadMask:
        mask = self.view.mask
        scorer = self.scorers.of(criterion)
        context = context_of(self.view, recipe, scorer, scorer=scorer, limit=limit)
        for move in STRATEGIES[strategy](context):
            mask = move.mask
        return mask


def _beside(divergences: Mapping[str, float], chosen: str) -> str:
    """Write the chosen order's divergence first, and those of the others."""
    others = [f"{name} {value:.3g}" for name, value in divergences.items() if name != chosen]
    return f"{divergences[chosen]:.3g} nats; {', '.join(others)}"


def _means(answers: Mapping[tuple[str, str], Sequence[Tensor]], stream: int) -> dict[str, float]:
    """Return the mean divergence of every order on one stream, where it is finite."""
    means = {" ".join(o): float(streams[stream].mean()) for o, streams in answers.items()}
    return {name: value for name, value in means.items() if math.isfinite(value)}


def _chosen(answers: Mapping[tuple[str, str], Sequence[Tensor]]) -> tuple[str, str] | None:
    """Return the order that calibration texts decide on; own text, between those as near to them.

    None if no answers are finite.
    """
    sound = {o: streams for o, streams in answers.items() if all(map(_is_sound, streams))}
    if not sound:
        return None
    apart, *own = (
        dict(zip(sound, stream, strict=True)) for stream in zip(*sound.values(), strict=True)
    )
    chosen = _nearest(apart, next(iter(apart)))
    as_near = [o for o in apart if not _clearly_nearer(apart[chosen], apart[o])]
    return _nearest({o: own[0][o] for o in as_near}, chosen) if own else chosen


def _nearest(apart: Mapping[tuple[str, str], Tensor], first: tuple[str, str]) -> tuple[str, str]:
    """Return the first order, or of those that are clearly nearer the nearest."""
    nearer = [o for o in apart if _clearly_nearer(apart[o], apart[first])]
    return min([first, *nearer], key=lambda order: float(apart[order].mean()))


def _is_sound(values: Tensor) -> bool:
    return bool(values.isfinite().all())


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
