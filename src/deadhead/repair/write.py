"""Putting fits into a model, for a while or for good, and into a file."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from deadhead.data.given import as_batches
from deadhead.errors import FileFormatError, HeadError
from deadhead.files import one_line, replacing
from deadhead.losses.losses import Loss
from deadhead.models.blocks import output_rows
from deadhead.models.heads import HeadModel
from deadhead.models.manifest import record_in_config
from deadhead.options.fields import check_arguments
from deadhead.options.settings import Distillation
from deadhead.options.values import DEFAULT_REPAIR
from deadhead.repair.base import REPAIRS, Fit, Fits, without_training
from deadhead.repair.fits import fit, losing
from deadhead.scoring import Scorer
from deadhead.surgery.apply import applied, apply_
from deadhead.surgery.fold import removal_of
from deadhead.surgery.mask import masked
from deadhead.surgery.plans import PlanLike, as_mask, as_view
from deadhead.surgery.remove import cuts_of
from deadhead.surgery.slicing import add_output_bias_
from deadhead.types import HeadMask, PruningPlan


@contextmanager
def repaired(view: HeadModel, mask: HeadMask, fits: Fits) -> Iterator[nn.Module]:
    """Mask a model and put fits in, until the context is left; weights come back bit for bit."""
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
    """Let a model compute what it would after `apply_repaired_`, until the context is left."""
    plan = _checked(view, plan, fits)
    if not fits:
        with applied(view, plan):
            yield view.model
        return
    with repaired(view, plan.mask, fits):
        yield view.model


def write_fits_(view: HeadModel, fits: Fits) -> None:
    """Put fits into a model for good, before its heads are cut.

    A projection without a bias gets one if its fit has one, which the checkpoint's manifest says.
    """
    _check_fits(view, fits)
    with view.changing("repair a model"):
        for number, found in fits.items():
            if found.bias is not None:
                add_output_bias_(view.blocks[number])
        _write_(view, fits)
        view.refresh()
        record_in_config(view)


def apply_repaired_(model: nn.Module | HeadModel, plan: PruningPlan, fits: Fits) -> nn.Module:
    """Do to a model what a plan says, with its repair, in place.

    The whole plan is checked before the first weight is touched. Fits hold what a fold would add
    up, so that a folded plan ends with the removal of its copies.

    Raises:
        HeadError, GroupError: as `apply_`; or the fits are not the plan's repair, which `distill`
            is not fitted but trained, or are for another model.
    """
    view = as_view(model)
    plan = _checked(view, plan, fits)
    if fits:
        if plan.action == "fold":
            plan = removal_of(view, plan)
        write_fits_(view, fits)
    return apply_(view, plan)


def _checked(view: HeadModel, plan: PruningPlan, fits: Fits) -> PruningPlan:
    """Refuse what cannot be done; return the plan without the repair, which the fits are."""
    if REPAIRS[plan.repair].begins_with is not None:
        raise HeadError(
            f"the plan has repair {plan.repair!r}, which trains the cut model; use"
            " result.apply_(model) for what prune returned, or deadhead.repair_(model, data, plan)"
        )
    plan.mask.check_shape(view.mask.counts)
    _check_fits(view, fits)
    wanted = set(losing(view, plan)) if plan.repair != "none" else set()
    if lacking := sorted(wanted - set(fits)):
        raise HeadError(
            f"the plan has repair {plan.repair!r}, and there is no fit of block {lacking[0]}; make"
            " the fits of this plan, or use deadhead.repair_(model, data, plan)"
        )
    if extra := sorted(set(fits) - wanted):
        raise HeadError(
            f"there is a fit of block {extra[0]}, and the plan with repair {plan.repair!r} does not"
            " repair that block; use the fits of this plan"
        )
    plan = replace(plan, repair="none")
    if plan.action == "fold":
        removal_of(view, plan)
    elif plan.action == "remove":
        cuts_of(view, plan)
    return plan


def _check_fits(view: HeadModel, fits: Fits) -> None:
    """Refuse fits that do not fit the blocks, before anything is touched."""
    if fits:
        view.check_loaded("repair a model")
    for number, found in fits.items():
        wanted = f"blocks 0 to {len(view.blocks) - 1}"
        if number in range(len(view.blocks)):
            hidden, width = output_rows(view.blocks[number].output).shape
            wanted = f"{[hidden, width]} and a bias of {[hidden]}"
        bias = [len(found.weight)] if found.bias is None else list(found.bias.shape)
        shapes = f"{list(found.weight.shape)} and a bias of {bias}"
        if shapes != wanted:
            raise HeadError(
                f"the fit of block {number} has a weight of shape {shapes}, and the model has"
                f" {wanted}; use the fits of this model, as it was when they were made"
            )


@check_arguments
def repair_(
    model: nn.Module | HeadModel,
    data: Any,
    plan: PlanLike,
    tokenizer: Any = None,
    *,
    loss: str | Loss | None = None,
    strict: bool = False,
    distillation: Distillation | None = None,
) -> nn.Module:
    """Do what a plan says, with its repair, in place; measure or train on calibration data for it.

    Args:
        model: the model as it was planned for.
        data: texts, a data set, batches, a file name or a task (`data.given.as_batches` lists
            all); labels only if `loss` needs them.
        plan: a plan; or a mask or a list of heads to remove, with the default repair.
        tokenizer: the model's, where `data` are texts.
        loss: whose gradient weights the tokens; None: `kl`, which needs no labels.
        strict: refuse fewer calibration tokens than unknowns.
        distillation: how the repair `distill` trains.

    Cost: one forward and one backward pass, then algebra of `width^3` per block. Of
    `least_squares_sequential`, two forward passes per block. Of `distill`, the training too, and a
    copy of the dense model.

    Raises:
        HeadError, GroupError: as `apply_`.
        DataError: there are no data, or as `fit`.
        UnknownNameError: no repair of that name.
        MissingDependencyError: `distill` needs a package that is not installed.

    Example:
        >>> import deadhead
        >>> loaded = deadhead.load_model("bundled:encoder")
        >>> texts = ["a good film"] * 8 + ["a film that i would never call good"] * 8
        >>> plan = deadhead.choose(loaded.model, texts, tokenizer=loaded.tokenizer, heads=0.25)
        >>> repaired = repair_(loaded.model, texts, plan, loaded.tokenizer)
        >>> deadhead.HeadModel(repaired).mask == plan.mask
        True
    """
    view = as_view(model)
    if not isinstance(plan, PruningPlan):
        plan = PruningPlan(as_mask(view, plan), repair=DEFAULT_REPAIR)
    batches = as_batches(data, view.model, tokenizer)
    fitted = without_training(plan)
    measured = REPAIRS[fitted.repair].needs_moments
    moments = Scorer(view, batches, None, loss=loss).moments if measured else None
    fits = fit(view, fitted, moments, batches=batches, strict=strict)
    if fitted == plan:
        return apply_repaired_(view, plan, fits)
    from deadhead.repair.distill import check_packages, distill_

    _checked(view, fitted, fits)  # before the model is copied
    check_packages(distillation or Distillation())
    dense = copy.deepcopy(view.model)
    cut = apply_repaired_(view, fitted, fits)
    distill_(cut, dense, batches, settings=distillation)
    return cut


def _write_(view: HeadModel, fits: Fits) -> None:
    for number, found in fits.items():
        module: Any = view.blocks[number].output
        weight = output_rows(module).detach()
        weight.copy_(found.weight)
        if found.bias is None:
            continue
        trains = module.weight.requires_grad if module.bias is None else module.bias.requires_grad
        module.bias = nn.Parameter(found.bias.to(weight), requires_grad=trains)


def _restore_(module: Any, weight: torch.Tensor, bias: nn.Parameter | None) -> None:
    module.weight.data = weight
    module.bias = bias


KEY = "deadhead"  # of the metadata


def fits_file(plan_file: Path) -> Path:
    """Return where the repair of a plan is stored: `plan.repair.safetensors` of `plan.json`."""
    return plan_file.with_suffix(".repair.safetensors")


def save_fits(file: Path, view: HeadModel, plan: PruningPlan, fits: Fits) -> None:
    """Store fits in the dtype of the model, with what they were made for."""
    tensors = {}
    for number, found in fits.items():
        dtype = output_rows(view.blocks[number].output).dtype
        tensors[f"{number}.weight"] = found.weight.to("cpu", dtype).contiguous()
        if found.bias is not None:
            tensors[f"{number}.bias"] = found.bias.to("cpu", dtype).contiguous()
    with replacing(file) as temporary:
        save_file(tensors, temporary, metadata={KEY: fits_key(view, plan)})


def read_fits(file: Path, view: HeadModel, plan: PruningPlan) -> Fits | None:
    """Read fits; None if there is no file, or it was made for another plan or other weights."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            if (stored.metadata() or {}).get(KEY) != fits_key(view, plan):
                return None
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            numbers = sorted({int(name.split(".")[0]) for name in tensors})
            return {n: Fit(tensors[f"{n}.weight"], tensors.get(f"{n}.bias")) for n in numbers}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise FileFormatError(
            f"{str(file)!r} is not a stored repair ({one_line(error)}); remove it, and plan again"
            " or give --calibration"
        ) from error


def fits_key(view: HeadModel, plan: PruningPlan) -> str:
    """Return a short hex of a plan and of the output projections that its repair replaces."""
    values = {name: value for name, value in plan.to_json().items() if name != "provenance"}
    digest = blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=12)
    for block in view.blocks:
        rows = output_rows(block.output).detach().cpu().contiguous()
        digest.update(rows.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
