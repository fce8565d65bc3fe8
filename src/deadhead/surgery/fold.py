"""Folding: add a duplicate's output slice to its source's, then remove the duplicate."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch
from torch import nn

from deadhead.errors import GroupError, HeadError
from deadhead.models.blocks import Block, output_rows
from deadhead.models.heads import HeadModel
from deadhead.surgery.duplicate import check_copies, kv_differ
from deadhead.surgery.plans import PlanLike, as_plan, as_view
from deadhead.surgery.remove import cut_blocks_, cuts_of
from deadhead.types import Head, PruningPlan


def fold_(model: nn.Module | HeadModel, plan: PlanLike) -> nn.Module:
    """Duplicate, then remove the duplicates, in place: the same logits with fewer heads.

    A duplicate computes what its source computes, so `z W_O[source].T + z W_O[copy].T` is
    `z (W_O[source] + W_O[copy]).T`. Heads that the plan drops without a source are removed. The
    whole plan is checked before the first weight is touched.

    Cost: one copy of each cut block's kept weights; no forward pass.

    Raises:
        HeadError: folding would not be exact (says why and names what is), or the plan is for
            another model.
        GroupError: the plan cuts half a key/value group, against its `gqa` policy.
    """
    view = as_view(model)
    plan = as_plan(view, plan, "fold")
    check_folds(view, plan)
    cuts = cuts_of(view, plan)
    sums: dict[Head, list[Head]] = defaultdict(list)
    for head, source in plan.copies.items():
        sums[source].append(head)
    with view.changing("fold heads"), torch.no_grad():
        for source, heads in sums.items():
            block = view.blocks[source.block]
            weight = output_rows(block.output).detach()
            wide = torch.promote_types(weight.dtype, torch.float32)
            slices = [weight[:, _columns(block, h)].to(wide) for h in (source, *heads)]
            weight[:, _columns(block, source)] = torch.stack(slices).sum(0).to(weight.dtype)
        cut_blocks_(view, cuts)
    return view.model


def removal_of(view: HeadModel, plan: PruningPlan) -> PruningPlan:
    """Return the removal that a fold ends with, or raise as `fold_` does."""
    check_folds(view, plan)
    cuts_of(view, plan)
    return replace(plan, action="remove", copies={})


def check_folds(view: HeadModel, plan: PruningPlan) -> None:
    """Refuse a fold that would not give the logits of duplication.

    Raises:
        HeadError: as `fold_`.
    """
    check_copies(view, plan.copies)
    for head, source in plan.copies.items():
        if plan.mask.keeps(head) or not plan.mask.keeps(source):
            raise HeadError(
                f"cannot fold head {head} into {source}: the plan has to drop the first and keep"
                " the second; make it with --strategy clusters"
            )
        if head.block != source.block:
            raise HeadError(
                f"cannot fold head {head} into {source}: they are in different blocks, so their"
                " outputs enter at different depths; choose the action duplicate (exact, not"
                " smaller), mask or remove, or group within blocks (--grouping balanced)"
            )
    if any(record.slopes for record in view.records) and plan.slope != "source" and plan.copies:
        head, source = next(iter(plan.copies.items()))
        raise HeadError(
            f"cannot fold head {head} into {source}: each head of {view.records[0].model_type}"
            " has its own ALiBi slope, so a copy computes a different output; fold with"
            " slope='source' (--slope source), or choose the action duplicate, mask or remove"
        )
    _check_policy(view, plan)


def _check_policy(view: HeadModel, plan: PruningPlan) -> None:
    """Name the ways out where the policy for shared key/value heads forbids a fold."""
    try:
        cuts_of(view, plan)
    except GroupError as error:
        if any(kv_differ(view, head, source) for head, source in plan.copies.items()):
            raise
        raise GroupError(
            f"{error}; to fold query heads of one group plan with --gqa ungroup, to fold whole"
            " groups with --unit kv"
        ) from error


def _columns(block: Block, head: Head) -> slice:
    start = block.position(head.index) * block.head_dim
    return slice(start, start + block.head_dim)
