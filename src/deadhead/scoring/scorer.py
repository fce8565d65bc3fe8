"""Scoring: several criteria at once, at the price of the passes they share."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deadhead.criteria.base import make_criterion
from deadhead.data.inputs import Batch, aligned, to_device
from deadhead.errors import DataError
from deadhead.losses.losses import Loss, loss_named
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments, MomentSums
from deadhead.scoring.combine import combined, parts_of
from deadhead.scoring.passes import Backward, run_batch
from deadhead.scoring.trials import Trials, check_value
from deadhead.surgery.mask import masked
from deadhead.types import Head, HeadMask, HeadScores

TRIALS = 8  # whose errors are asked for together


def score(
    model: nn.Module | HeadModel,
    data: Iterable[Batch] | None,
    criterion: str,
    *,
    mask: HeadMask | None = None,
    loss: str | Loss | None = None,
    seed: int = 0,
) -> HeadScores:
    """Score the heads of a model by one criterion; see `score_all`."""
    return score_all(model, data, [criterion], mask=mask, loss=loss, seed=seed)[criterion]


def score_all(
    model: nn.Module | HeadModel,
    data: Iterable[Batch] | None,
    criteria: Sequence[str],
    *,
    mask: HeadMask | None = None,
    loss: str | Loss | None = None,
    seed: int = 0,
    on_batch: Callable[[], None] | None = None,
) -> dict[str, HeadScores]:
    """Score the heads of a model by several criteria that share their passes.

    All gradient criteria of one call differentiate the same loss: `loss` if it is named; else
    `task` if any of them is defined on it (taylor), else `kl`, else `logit_norm`. So `taylor` and
    `gradient_norm` together cost one forward and one backward pass per batch.

    Args:
        model: the model; comes back exactly as it was.
        data: batches of `input_ids`, `attention_mask`, perhaps `labels`; None if no criterion
            looks at data.
        criteria: names, with options: `gradient_norm`, `attention_entropy:normalized=true`; or
            several joined by `+`, whose ranks are averaged: `taylor+magnitude`.
        mask: heads it drops are switched off while scoring and come back NaN.
        loss: `kl`, `logit_norm`, `task`, or a callable `(model, outputs, batch) -> (batch,)`.
        seed: for criteria that draw.
        on_batch: called after every batch, for progress.

    Shape: one `HeadScores` per criterion, in original head indices; NaN for heads that are gone.
    Cost: one forward pass per batch, and one backward pass if there are gradient criteria (one
    more for each other `reduction`).

    Raises:
        UnknownNameError: a criterion, option or loss that is not known.
        DataError: there is no data, or it lacks labels.
        ScoreError: something is not finite; names head and batch.
    """
    scorer = Scorer(model, data, criteria, loss=loss, seed=seed, on_batch=on_batch)
    return scorer.all_of(mask)


class Scorer:
    """Score whatever masks leave of a model, on the same data.

    Most criteria look at the masked model anew for every mask. Those that last (`reconstruction`,
    `file`) look at the dense model once and know every mask.

    Args:
        model, data, criteria, loss, seed, on_batch: as of `score_all`.
        moments: sum moments in the dense pass, whether or not a criterion wants them.
        moments_device, moments_dtype: where and in what moments are summed; see `MomentSums`.
        strict: refuse data that `notes` has something to say about.
    """

    def __init__(
        self,
        model: nn.Module | HeadModel,
        data: Iterable[Batch] | None,
        criteria: Sequence[str],
        *,
        loss: str | Loss | None = None,
        seed: int = 0,
        moments: bool = False,
        moments_device: str | None = None,
        moments_dtype: torch.dtype = torch.float64,
        strict: bool = False,
        on_batch: Callable[[], None] | None = None,
    ):
        self.view = model if isinstance(model, HeadModel) else HeadModel(model)
        self.data = list(data) if isinstance(data, Iterator) else data  # gone through again
        self.criteria = criteria
        self.seed = seed
        self._names = [name for spec in criteria for name in parts_of(spec)]
        self._made = self._make(self._names)
        self.loss = shared_loss(list(self._made.values()), loss)
        if self.loss is not None and self.tries:
            check_value(self.loss)
        self._felt_by = loss or "kl"  # whatever the criteria differentiate
        summed = any(c.needs >= {"moments", "output_gradients"} for c in self._made.values())
        same = (self.loss or self._felt_by) == self._felt_by
        self._wants_moments = (moments or summed) and same
        self._moments: Moments | None = None
        self._how = {
            "moments_device": moments_device,
            "moments_dtype": moments_dtype,
            "on_batch": on_batch,
        }
        self.strict = strict
        self._seen: Seen | None = None
        self._looks: dict[tuple[Any, ...], Scorer] = {}  # shared with those of `only`

    def __call__(self, mask: HeadMask | None = None) -> HeadScores:
        """Score by the first criterion; see `all_of`."""
        return self.all_of(mask)[self.criteria[0]]

    def all_of(self, mask: HeadMask | None = None) -> dict[str, HeadScores]:
        """Score what a mask leaves, by every criterion.

        Cost: one pass over the data for the criteria that do not last; one in all for the others.
        """
        whole = mask is None or mask == self.view.mask
        first = self._dense() if whole or self._lasting else None
        made = dict(self._made)
        fresh = [name for name in made if name not in self._lasting]
        seen = first
        if not whole and fresh:
            made.update(self._make(fresh))
            chosen = [made[name] for name in fresh]
            seen = observe_all(self.view, self.data, chosen, mask=mask, loss=self.loss, **self._how)
        found: dict[str, HeadScores] = {}
        for name, criterion in made.items():
            lasting = name in self._lasting and mask is not None
            values = criterion.scores_of(mask) if lasting else criterion.scores()
            rows = _in_original_order(self.view, values, mask)
            found[name] = HeadScores(rows, name, self._provenance(criterion, seen or first))
        return {spec: combined(spec, found) for spec in self.criteria}

    def look(self) -> float:
        """Look at the dense model, unless that is done; return how long it took, in seconds.

        All of it, whoever shared it; 0 if the criteria look at no data.
        """
        needed = any(made.needs for made in self._made.values())
        return self._dense().seconds if needed else 0.0

    @property
    def tries(self) -> bool:
        """Whether a criterion tries out masks, and shares no pass with others."""
        return any("trials" in made.needs for made in self._made.values())

    def only(self, spec: str) -> Scorer:
        """Return the scorer of one of the criteria, which shares the dense pass with the others."""
        self._dense()
        other = copy.copy(self)
        other.criteria = [spec]
        other._names = parts_of(spec)
        other._made = {name: self._made[name] for name in other._names}
        return other

    @property
    def passed(self) -> tuple[HeadMask, ...]:
        """No mask: a scorer makes no run; see `strategies.second_look`."""
        return ()

    @property
    def looks_again(self) -> bool:
        """Whether `again` can be had: of a single criterion that needs but one look."""
        return len(self._made) == 1 and all(hasattr(c, "weights") for c in self._made.values())

    def again(self, mask: HeadMask, weights: Mapping[int, Tensor]) -> Scorer:
        """Look at the model anew as it is at this moment, and return the scorer of what is seen.

        Args:
            mask: what it is masked by; looked at once, however often it is asked for.
            weights: the output projections that differ from the dense model's, by block.

        Cost: a pass the first time.
        """
        key = (*self._names, mask)
        if key not in self._looks:
            other = copy.copy(self)
            other._made, other._seen = self._make(self._names), None
            for criterion in other._made.values():
                criterion.mask, criterion.weights = mask, weights
            other._dense()
            self._looks[key] = other
        return self._looks[key]

    def gains(self, mask: HeadMask) -> HeadScores | None:
        """Return what taking back each dropped head would save; None if the criterion cannot tell.

        NaN for heads that the mask keeps. Cost: algebra, after the dense pass.
        """
        criterion = self._alone("gains_of")
        if criterion is None:
            return None
        rows = _in_original_order(self.view, criterion.gains_of(mask), None)
        return HeadScores(rows, self.criteria[0])

    def error(self, mask: HeadMask) -> float | None:
        """Return the criterion's error of a whole mask; None if it has none."""
        found = self.errors([mask])
        return None if found is None else found[0]

    def errors(self, masks: Sequence[HeadMask]) -> list[float] | None:
        """Return the criterion's errors of whole masks; None if it has none.

        Cost: algebra; of `ablation`, a forward pass and part of one per mask.
        """
        criterion = self._alone("errors_of")
        return None if criterion is None else criterion.errors_of(masks)

    @property
    def at_once(self) -> int:
        """How many masks are best asked for `errors` together: more if they share a pass."""
        return TRIALS if self.tries else 1

    def joint(self, mask: HeadMask, units: Sequence[Sequence[Head]]) -> list[float] | None:
        """Return the criterion's error of dropping each of some sets of heads together from a mask.

        None if it cannot tell. Cost: algebra, after the dense pass.
        """
        criterion = self._alone("joint_of")
        return None if criterion is None else criterion.joint_of(mask, units)

    @property
    def notes(self) -> list[str]:
        """What the criteria have to say about the data, a line each. Cost: the dense pass."""
        self._dense()
        return self._said()

    def _said(self) -> list[str]:
        return [note for made in self._made.values() for note in getattr(made, "notes", ())]

    def _alone(self, method: str) -> Any:
        """Return the first spec's criterion, ready, if it is a single one with this method."""
        criterion = self._made.get(self.criteria[0])
        if criterion is None or not hasattr(criterion, method):
            return None
        self._dense()
        return criterion

    @property
    def moments(self) -> Moments:
        """Moments of the dense model for repairs, felt by the loss that was named, or `kl`.

        Cost: none if they were asked for and the criteria differentiate that loss; else a pass.
        """
        if self._moments is None:
            seen = self._dense() if self._wants_moments else None
            if seen is None:
                how = {"loss": self._felt_by, **self._how}
                seen = observe_all(self.view, self.data, [], moments=True, **how)
            assert seen.moments is not None
            self._moments = seen.moments
        return self._moments

    @property
    def _lasting(self) -> list[str]:
        return [name for name, made in self._made.items() if getattr(made, "lasting", False)]

    def _dense(self) -> Seen:
        if self._seen is None:
            seen = observe_all(
                self.view,
                self.data,
                list(self._made.values()),
                loss=self.loss,
                moments=self._wants_moments,
                **self._how,
            )
            if self.strict and self._said():
                raise DataError(f"{self._said()[0]}; or go on all the same without strict")
            self._seen = seen
        return self._seen

    def _make(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: make_criterion(name, self.view, seed=self.seed) for name in names}

    def _provenance(self, criterion: Any, seen: Seen | None) -> dict[str, Any]:
        provenance: dict[str, Any] = {"seed": self.seed}
        if criterion.needs and seen is not None:
            provenance["samples"] = seen.samples
        if criterion.loss is not None and self.loss is not None:
            provenance["loss"] = _name(self.loss)
        return {**provenance, **getattr(criterion, "facts", {})}


@dataclass(frozen=True)
class Seen:
    """What one pass over the data left.

    Attributes:
        samples: how many.
        moments: None if nobody asked.
        seconds: how long it took.
    """

    samples: int
    moments: Moments | None = None
    seconds: float = 0.0


def observe_all(
    view: HeadModel,
    data: Iterable[Batch] | None,
    criteria: Sequence[Any],
    *,
    mask: HeadMask | None = None,
    loss: str | Loss | None = None,
    moments: bool = False,
    moments_device: str | None = None,
    moments_dtype: torch.dtype = torch.float64,
    on_batch: Callable[[], None] | None = None,
) -> Seen:
    """Show the data to criteria, all in one pass; with `moments`, sum those too, and gradients'.

    Args and Raises: as `score_all` and `Scorer`. The criteria are then ready to give their scores.
    """
    begun = time.perf_counter()
    needs = frozenset[str]().union(*(c.needs for c in criteria))
    sums = None
    if moments or "moments" in needs:
        gradients = moments or "output_gradients" in needs
        how = {"device": moments_device, "dtype": moments_dtype}
        sums = MomentSums(view, gradients=gradients, **how)
    triers = [c for c in criteria if "trials" in c.needs]
    if triers and not isinstance(data, Sequence):
        data = list(data or ())  # gone through more than once
    lookers = [c for c in criteria if c.needs and not c.needs & {"moments", "trials"}]
    lookers += [sums] if sums else []  # for those that need moments
    loss = shared_loss([*lookers, *triers], loss)
    samples = 0
    if lookers:
        backwards = _backwards(lookers, loss)
        watchers = [c for c in lookers if c.needs & {"maps", "heads"}]
        with ExitStack() as stack:
            stack.enter_context(view.at_rest())
            if mask is not None:
                stack.enter_context(masked(view, mask))
            for number, batch in enumerate(data or ()):
                run_batch(
                    view,
                    aligned(to_device(batch, view.device)),
                    number,
                    backwards=backwards,
                    watchers=watchers,
                )
                samples += len(next(iter(batch.values())))
                if on_batch is not None:
                    on_batch()
        if not samples:
            raise DataError(
                f"{', '.join(c.name for c in lookers)}: there are no calibration samples;"
                " give at least one batch"
            )
    if triers:
        trials = Trials(view, data, loss or "task", mask=mask, on_batch=on_batch)
        samples = trials.samples
        for criterion in triers:
            criterion.observe_trials(trials)
    found = sums.value() if sums else None
    for criterion in criteria:
        if "moments" in criterion.needs:
            criterion.moments = found
    return Seen(samples, found, time.perf_counter() - begun)


def shared_loss(criteria: Iterable[Any], loss: str | Loss | None) -> str | Loss | None:
    """Return the one loss that the gradient criteria of a pass differentiate; None if none does."""
    wanted = [c.loss for c in criteria if c.loss is not None]
    if loss is not None:
        loss_named(loss)
        return loss
    return next((name for name in ("task", "kl") if name in wanted), next(iter(wanted), None))


def _name(loss: str | Loss) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


def _backwards(criteria: Sequence[Any], loss: str | Loss | None) -> list[Backward]:
    groups: dict[str, list[Any]] = {}
    for criterion in criteria:
        if criterion.loss is not None:
            groups.setdefault(getattr(criterion, "reduction", "sample"), []).append(criterion)
    if loss is None:
        return []
    return [Backward(loss_named(loss), reduction, group) for reduction, group in groups.items()]


def _in_original_order(
    view: HeadModel, scores: Sequence[np.ndarray], mask: HeadMask | None
) -> tuple[np.ndarray, ...]:
    rows = []
    for number, (block, values) in enumerate(zip(view.blocks, scores, strict=True)):
        row = np.full(block.held.n_heads, np.nan)
        row[list(block.held.heads)] = values
        if mask is not None:
            row[~np.array(mask.kept[number], dtype=bool)] = np.nan
        rows.append(row)
    return tuple(rows)
