"""What prune returns."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from deadhead.display import number
from deadhead.display.html import head_map_html
from deadhead.errors import HeadError
from deadhead.measure import CutSummary, ModelSize, cut_summary
from deadhead.models.heads import HeadModel
from deadhead.pruning.judges import COSINE
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.trajectory import Trajectory
from deadhead.repair import Fits, apply_repaired_, without_training
from deadhead.surgery.plans import as_view
from deadhead.types import HeadScores, PruningPlan

if TYPE_CHECKING:
    from deadhead.moments import Moments
    from deadhead.pruning.auto import AutoChoice
    from deadhead.repair.distill.run import DistillReport
    from deadhead.tasks import Evaluation


def absolute_sums(model: nn.Module) -> tuple[float, ...]:
    """Return the sum of the absolute values of each parameter."""
    return tuple(float(p.detach().float().abs().sum()) for p in model.parameters() if not p.is_meta)


@dataclass(frozen=True, eq=False, repr=False)
class Pruning:
    """The outcome of `prune`; printed as a sentence or two.

    Attributes:
        trajectory: the metric after every move, on `evaluated_on`; NaN where it was not judged.
        scores: scores of the model as it was given; None if it was not scored (`clusters`).
        plan: what to cut: the last step, or under `max_drop` the last that is good enough.
        source: the model that was pruned; it is as it was.
        size: how large it was.
        fits: the plan's repair, fitted.
        moments: what fits are made from; None without a repair.
        evaluated_on: `test`; `selection` if a stopping rule looked at the metric; `held_out`
            without a test set, where the metric is the divergence from the dense model, or the
            cosine to its embeddings of a model without a head.
        recipe: with what `auto` stands for.
        choice: how `auto` chose; None if the method was named.
        dense, pruned: what the judge said of the dense model and the plan's, with intervals; None
            where an interrupted run had judged them.
        trained: what training did, of the repair `distill`.
        notes: what the user should know, a line each.
        weights: the sum of the absolute values of each parameter of `source` as it was pruned.
    """

    trajectory: Trajectory
    scores: HeadScores | None
    plan: PruningPlan
    source: nn.Module
    size: ModelSize
    fits: Fits = field(default_factory=dict)
    moments: Moments | None = None
    evaluated_on: str = "test"
    recipe: Recipe = field(default_factory=Recipe)
    choice: AutoChoice | None = None
    dense: Evaluation | None = None
    pruned: Evaluation | None = None
    trained: DistillReport | None = None
    notes: tuple[str, ...] = ()
    weights: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", absolute_sums(self.source))

    @cached_property
    def model(self) -> nn.Module:
        """The cut and repaired model: a copy, made once; after `apply_` to the pruned model, that.

        Raises:
            HeadError: the pruned model has been cut in another way meanwhile.
        """
        self._check(HeadModel(self.source))
        return self._cut(copy.deepcopy(self.source))

    def with_model(self, model: nn.Module) -> Pruning:
        """Return the result with the model that was trained for it."""
        self.__dict__["model"] = model
        return self

    def apply_(self, model: nn.Module | HeadModel) -> nn.Module:
        """Cut and repair a model in place as `result.model` is: with the same fits and weights.

        Args:
            model: the one that was pruned, or another copy of it.

        Raises:
            HeadError: it holds other heads, or other weights, than the model that was pruned.
        """
        view = as_view(model)
        self._check(view)
        if view.model is not self.source and not self._has_these_weights(view.model):
            raise HeadError(
                "the model has other weights than the pruned one, and the repair was fitted to"
                " those; give the pruned model or a copy of it, or prune this one"
            )
        cut = self._cut(view.model)
        if cut is self.source:
            self.__dict__.setdefault("model", cut)
        return cut

    def _has_these_weights(self, model: nn.Module) -> bool:
        sizes = absolute_sums(model)
        return len(sizes) == len(self.weights) and all(
            math.isclose(a, b, rel_tol=1e-5) for a, b in zip(sizes, self.weights, strict=True)
        )

    def _check(self, view: HeadModel) -> None:
        start = self.trajectory.start.mask
        if view.mask != start:
            raise HeadError(
                f"the model holds {view.mask.n_kept} heads of {list(view.mask.counts)}, and the"
                f" pruned one held {start.n_kept} of {list(start.counts)}; give the model as it was"
            )

    def _cut(self, model: nn.Module) -> nn.Module:
        fitted = without_training(self.plan)
        cut = apply_repaired_(model, fitted, self.fits)
        if fitted != self.plan:  # trained: `model` is cached from the start
            with torch.no_grad():
                cut.load_state_dict(self.model.state_dict())
        return cut

    @cached_property
    def summary(self) -> CutSummary:
        """What the cut saves: heads, parameters, cache bytes, and the most it can speed up."""
        return cut_summary(self.size, self.model)

    def __str__(self) -> str:
        return f"{'; '.join(self._said)}\n{self.summary}"

    def __repr__(self) -> str:
        lines = ";\n  ".join(self._said)
        return f"<Pruning: {lines}>"

    def _repr_html_(self) -> str:
        scores = None if self.scores is None else [row.tolist() for row in self.scores.values]
        return head_map_html(self.plan.mask.kept, scores, caption="; ".join(self._said))

    @property
    def _said(self) -> list[str]:
        """What was done, and what the judge says of it."""
        curve, removed = self.trajectory, len(self.plan.mask.dropped)
        removed -= len(curve.start.mask.dropped)
        repair = "" if self.plan.repair == "none" else f", repair {self.plan.repair}"
        done = f"{self.plan.action} {removed} of {curve.start.mask.n_kept} heads{repair}"
        if self.pruned is not None:
            value, ends = self.pruned.value, self.pruned.interval()
        else:
            value, ends = {step.mask: step.metric for step in curve}[self.plan.mask], None
        if math.isnan(value):
            return [done, "not judged"]
        on = f"on {self.evaluated_on.replace('_', '-')} data"
        if self.evaluated_on != "held_out":
            return [done, f"{curve.metric} {number(value)} {on}, dense {number(curve.dense)}"]
        interval = "" if ends is None else f" (95% interval {number(ends[0])} to {number(ends[1])})"
        if curve.metric == COSINE:
            return [done, f"cosine to the dense embeddings {number(value)}{interval} {on}"]
        return [done, f"divergence from the dense model {number(value)} nats{interval} {on}"]
