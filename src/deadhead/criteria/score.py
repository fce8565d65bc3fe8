"""Scoring: several criteria at once, at the price of the passes they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from torch import nn

from deadhead.criteria.base import make_criterion
from deadhead.criteria.inputs import Batch, aligned, to_device
from deadhead.criteria.losses import Loss, loss_named
from deadhead.criteria.passes import Backward, run_batch
from deadhead.errors import DataError
from deadhead.heads import HeadModel
from deadhead.surgery.mask import masked
from deadhead.types import HeadMask, HeadScores


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
    `task` if any of them is defined on it (taylor), else `logit_norm`. So `taylor` and
    `gradient_norm` together cost one forward and one backward pass per batch.

    Args:
        model: the model; comes back exactly as it was.
        data: batches of `input_ids`, `attention_mask`, perhaps `labels`; None if no criterion
            looks at data.
        criteria: names, with options: `gradient_norm`, `attention_entropy:normalized=true`.
        mask: heads it drops are switched off while scoring and come back NaN.
        loss: `logit_norm`, `task`, or a callable `(model, outputs, batch) -> (batch,)`.
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
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    made = {spec: make_criterion(spec, view, seed=seed) for spec in criteria}
    shared = _shared_loss(made.values(), loss)
    with_data = [c for c in made.values() if c.needs]
    samples = 0
    if with_data:
        backwards = _backwards(with_data, shared)
        watchers = [c for c in with_data if "maps" in c.needs]
        projections = any("projections" in c.needs for c in with_data)
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
                    projections=projections,
                )
                samples += len(next(iter(batch.values())))
                if on_batch is not None:
                    on_batch()
        if not samples:
            raise DataError(
                f"{', '.join(c.name for c in with_data)}: there are no calibration samples;"
                " give at least one batch"
            )
    results = {}
    for spec, criterion in made.items():
        provenance: dict[str, Any] = {"seed": seed}
        if criterion.needs:
            provenance["samples"] = samples
        if criterion.loss is not None and shared is not None:
            provenance["loss"] = _name(shared)
        rows = _in_original_order(view, criterion.scores(), mask)
        results[spec] = HeadScores(rows, spec, provenance)
    return results


def _shared_loss(criteria: Iterable[Any], loss: str | Loss | None) -> str | Loss | None:
    wanted = [c.loss for c in criteria if c.loss is not None]
    if loss is not None:
        loss_named(loss)
        return loss
    return "task" if "task" in wanted else next(iter(wanted), None)


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
