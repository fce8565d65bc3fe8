"""Putting fits into a model: for as long as a context lasts, or for good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deadhead.data.inputs import Batch
from deadhead.errors import HeadError
from deadhead.losses.losses import Loss
from deadhead.models.blocks import output_rows
from deadhead.models.heads import HeadModel
from deadhead.models.manifest import record_in_config
from deadhead.repair.base import Fits, data_repair_named
from deadhead.repair.fitting import fit
from deadhead.scoring import Scorer
from deadhead.surgery.apply import applied, apply_
from deadhead.surgery.fold import removal_of
from deadhead.surgery.mask import masked
from deadhead.surgery.output_bias import add_output_bias_
from deadhead.surgery.remove import cuts_of
from deadhead.types import HeadMask, PruningPlan


@contextmanager
def repaired(view: HeadModel, mask: HeadMask, fits: Fits) -> Iterator[nn.Module]:
    """Mask a model and put fits in, until the context is left; weights come back bit for bit.

    Raises:
        HeadError: the mask or the fits are for another model.
    """
    _check_fits(view, fits)
    with view.claimed(), ExitStack() as stack:
        for number in fits:
            module: Any = view.blocks[number].output
            stack.callback(_restore_, module, module.weight.data, module.bias)
            module.weight.data = module.weight.data.clone()
        _write_(view, fits)
        stack.enter_context(masked(view, mask))
        yield view.model


@contextmanager
def applied_repaired(view: HeadModel, plan: PruningPlan, fits: Fits) -> Iterator[nn.Module]:
    """Let a model compute what it would after `apply_repaired_`, until the context is left.

    Raises:
        HeadError, GroupError: as `apply_`; or the fits are for another model.
    """
    plan = replace(plan, repair="none")
    if not fits:
        with applied(view, plan):
            yield view.model
        return
    _check(view, plan)
    with repaired(view, plan.mask, fits):
        yield view.model


def write_fits_(view: HeadModel, fits: Fits) -> None:
    """Put fits into a model for good, before its heads are cut.

    A projection without a bias gets one, which the checkpoint's manifest says.

    Raises:
        HeadError: the fits are for another model.
    """
    _check_fits(view, fits)
    with view.changing("repair a model"):
        for number in fits:
            add_output_bias_(view.blocks[number])
        _write_(view, fits)
        view.refresh()
        record_in_config(view)


def apply_repaired_(model: nn.Module | HeadModel, plan: PruningPlan, fits: Fits) -> nn.Module:
    """Do to a model what a plan says, with its repair, in place.

    The whole plan is checked before the first weight is touched. Fits hold what a fold would add
    up, so that a folded plan ends with the removal of its copies.

    Raises:
        HeadError, GroupError: as `apply_`; or the fits are for another model.
    """
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    plan = replace(plan, repair="none")
    if not fits:
        return apply_(view, plan)
    plan = _check(view, plan)
    write_fits_(view, fits)
    return apply_(view, plan)


def _check(view: HeadModel, plan: PruningPlan) -> PruningPlan:
    """Refuse what cannot be cut; return the plan with a fold as the removal it ends with."""
    if plan.action == "fold":
        return removal_of(view, plan)
    if plan.action == "remove":
        cuts_of(view, plan)
    return plan


def _check_fits(view: HeadModel, fits: Fits) -> None:
    """Refuse fits that do not fit the blocks, before anything is touched."""
    if fits:
        view.check_loaded("repair a model")
    for number, found in fits.items():
        if number not in range(len(view.blocks)):
            raise HeadError(
                f"there is a fit of block {number}, and the model has blocks 0 to"
                f" {len(view.blocks) - 1}; use the fits of this model"
            )
        hidden, width = output_rows(view.blocks[number].output).shape
        shapes = list(found.weight.shape), list(found.bias.shape)
        if shapes != ([hidden, width], [hidden]):
            raise HeadError(
                f"the fit of block {number} has a weight of shape {shapes[0]} and a bias of"
                f" {shapes[1]}, and the block takes {[hidden, width]} and {[hidden]}; use the fits"
                " of this model, as it was when they were made"
            )


def repair_(
    model: nn.Module | HeadModel,
    plan: PruningPlan,
    batches: Iterable[Batch],
    *,
    loss: str | Loss | None = None,
    strict: bool = False,
) -> nn.Module:
    """Measure a model on calibration batches, then do what a plan says, with its repair, in place.

    Args:
        model: the model as it was planned for.
        plan: with `repair` other than `none`.
        batches: of `input_ids` and `attention_mask`; labels are looked at only if `loss` does.
        loss: whose gradient weights the tokens; None: `kl`, which needs no labels.
        strict: refuse fewer calibration tokens than unknowns.

    Cost: one forward and one backward pass, then algebra of `width^3` per block. Of
    `least_squares_sequential`, two forward passes per block.

    Raises:
        HeadError, GroupError: as `apply_`.
        DataError: there are no batches, or as `fit`.
        UnknownNameError: no repair of that name.

    Example:
        >>> plan = choose(model, batches, Recipe(heads=0.5))  # doctest: +SKIP
        >>> repair_(model, plan, batches)  # doctest: +SKIP
    """
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    batches = list(batches)
    runs_itself = plan.repair == "none" or data_repair_named(plan.repair) is not None
    moments = None if runs_itself else Scorer(view, batches, None, loss=loss).moments
    fits = fit(view, plan, moments, plan.repair, batches=batches, strict=strict)
    return apply_repaired_(view, plan, fits)


def _write_(view: HeadModel, fits: Fits) -> None:
    for number, found in fits.items():
        module: Any = view.blocks[number].output
        weight = output_rows(module).detach()
        weight.copy_(found.weight)
        trains = module.weight.requires_grad if module.bias is None else module.bias.requires_grad
        module.bias = nn.Parameter(found.bias.to(weight), requires_grad=trains)


def _restore_(module: Any, weight: torch.Tensor, bias: nn.Parameter | None) -> None:
    module.weight.data = weight
    module.bias = bias
