"""One pass over the data, shown to every criterion that wants to see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from deadhead.criteria.base import Observer, ObservesTrials, SumsOverBatch, UsesMoments
from deadhead.data.inputs import Batch, ready, samples_in
from deadhead.display import Brief
from deadhead.errors import DataError
from deadhead.losses.losses import Loss, loss_named
from deadhead.measure import Timer
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments, MomentSums
from deadhead.scoring.passes import Backward, run_batch
from deadhead.surgery.mask import masked
from deadhead.types import HeadMask


@dataclass(frozen=True)
class PassSettings:
    """How passes over the calibration data are made.

    Attributes:
        seed: for criteria that draw.
        strict: raise what `notes` would warn of.
        moments_device, moments_dtype: where and in what type moments are summed; see `MomentSums`.
        on_batch: called after every batch, for progress.
    """

    seed: int = 0
    strict: bool = False
    moments_device: str | None = None
    moments_dtype: torch.dtype = torch.float64
    on_batch: Callable[[], None] | None = None


@dataclass(frozen=True, repr=False)
class PassResult(Brief):
    """What one pass over the data returns.

    Attributes:
        samples: how many there were.
        moments: None if they were not asked for.
        seconds: how long the pass took.
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
    settings: PassSettings | None = None,
) -> PassResult:
    """Show the data to criteria, all in one pass. They can give their scores afterwards.

    Args:
        view: the model.
        data: calibration batches.
        criteria: what looks at them.
        mask: heads that it drops are masked during the pass.
        loss: what gradient criteria differentiate; None: see `shared_loss`.
        moments: sum moments and gradients' moments, whether or not a criterion needs them.
        settings: see `PassSettings`.

    Raises:
        DataError: there are no samples, or they lack labels.
        ScoreError: something is not finite; names head and batch.
    """
    settings = settings or PassSettings()
    timer = Timer(view.model)
    sums = _moment_sums(view, criteria, moments, settings)
    trying: list[ObservesTrials] = [c for c in criteria if "trials" in c.needs]
    if trying and not isinstance(data, Sequence):
        data = list(data or ())  # used more than once
    observers = [c for c in criteria if c.needs and not c.needs & {"moments", "trials"}]
    observers += [sums] if sums else []
    loss = shared_loss([*observers, *trying], loss)
    samples = _observe(view, data or (), observers, mask, loss, settings) if observers else 0
    if trying:
        from deadhead.scoring.trials import Trials  # most criteria need none

        trials = Trials(view, data, loss or "task", mask=mask, on_batch=settings.on_batch)
        samples = trials.samples
        for criterion in trying:
            criterion.observe_trials(trials)
    summed = sums.value() if sums else None
    for criterion in criteria:
        if isinstance(criterion, UsesMoments):
            criterion.moments = summed
    return PassResult(samples, summed, timer.seconds)


def shared_loss(criteria: Iterable[Observer], loss: str | Loss | None) -> str | Loss | None:
    """Return the one loss that the gradient criteria of a pass differentiate; None if none does.

    It is the loss that the caller names; else `task` if a criterion is defined on it, else `kl` if
    one is, else the first criterion's.
    """
    if loss is not None:
        loss_named(loss)
        return loss
    wanted = [c.loss for c in criteria if c.loss is not None]
    return next((name for name in ("task", "kl") if name in wanted), next(iter(wanted), None))


def _moment_sums(
    view: HeadModel, criteria: Sequence[Observer], moments: bool, settings: PassSettings
) -> MomentSums | None:
    needs = frozenset[str]().union(*(c.needs for c in criteria))
    if not moments and "moments" not in needs:
        return None
    return MomentSums(
        view,
        gradients=moments or "output_gradients" in needs,
        device=settings.moments_device,
        dtype=settings.moments_dtype,
    )


def _observe(
    view: HeadModel,
    data: Iterable[Batch],
    observers: Sequence[Observer],
    mask: HeadMask | None,
    loss: str | Loss | None,
    settings: PassSettings,
) -> int:
    """Run the model on the data; return the number of samples."""
    backwards = _backwards(observers, loss)
    watchers = [c for c in observers if c.needs & {"maps", "heads"}]
    samples = 0
    with ExitStack() as stack:
        stack.enter_context(view.at_rest())
        if mask is not None:
            stack.enter_context(masked(view, mask))
        for number, batch in enumerate(ready(view.model, data)):
            run_batch(view, batch, number, backwards=backwards, watchers=watchers, mask=mask)
            samples += samples_in(batch)
            if settings.on_batch is not None:
                settings.on_batch()
    if not samples:
        raise DataError(
            f"{', '.join(c.name for c in observers)}: there are no calibration samples;"
            " give at least one batch"
        )
    return samples


def _backwards(observers: Sequence[Observer], loss: str | Loss | None) -> list[Backward]:
    groups: dict[str, list[Any]] = {}
    for observer in observers:
        if observer.loss is not None:
            reduction = observer.reduction if isinstance(observer, SumsOverBatch) else "sample"
            groups.setdefault(reduction, []).append(observer)
    if loss is None:
        return []
    return [Backward(loss_named(loss), reduction, group) for reduction, group in groups.items()]
