"""Removal: heads cut out of the weights for good."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from deadhead.errors import HeadError
from deadhead.models.architectures import Architecture
from deadhead.models.heads import Block, HeadModel
from deadhead.models.manifest import record_in_config
from deadhead.surgery.groups import policy_named, ungroup
from deadhead.surgery.headless import behead_, check_headless
from deadhead.surgery.slicing import Cut, slice_
from deadhead.types import PruningPlan


def remove_(model: nn.Module | HeadModel, plan: PruningPlan) -> nn.Module:
    """Cut the heads that `plan` drops out of the model, in place.

    Logits equal those of `masked` to rounding. A block that loses all heads keeps its output bias
    and skips attention. The whole plan is checked before the first weight is touched. A model can
    be cut again; heads keep their original indices. A transformers model's config records the cut,
    so that plain `save_pretrained` writes a checkpoint that loads after `import deadhead`.

    Cost: one copy of each cut block's kept weights; no forward pass.

    Raises:
        HeadError: the plan is for another model or action, or keeps a head that is gone.
        GroupError: the plan cuts half a key/value group, against its `gqa` policy.
        UnknownNameError: the plan's `gqa` policy is not known.
        UnsupportedModelError: a block of the user's own module loses every head, and its record
            does not say what it then returns.
    """
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    for block, cut in zip(view.blocks, cuts_of(view, plan), strict=True):
        cut_(block, view.architecture, cut)
    view.refresh()
    record_in_config(view)
    return view.model


def cuts_of(view: HeadModel, plan: PruningPlan) -> list[Cut]:
    """Return what stays of each block under the plan, or raise as `remove_` does."""
    if plan.action != "remove":
        raise HeadError(
            f"the plan's action is {plan.action!r}, and remove_ obeys 'remove' only; apply_ obeys"
            " every plan"
        )
    present = view.mask
    plan.mask.check_shape(present.counts)
    lost = [h for h in plan.mask.heads if not present.keeps(h)]
    if lost:
        raise HeadError(
            f"the plan keeps head {lost[0]}, which has been cut out of this model;"
            " plan from the model's own mask, or start from the uncut model"
        )
    policy = policy_named(plan.gqa)
    cuts = []
    for number, block in enumerate(view.blocks):
        kept = plan.mask.kept_in(number)
        heads = tuple(block.position(h) for h in kept)
        if block.n_heads and not heads:
            check_headless(view, number)
        shared = block.n_heads != block.n_kv_heads  # if not, every policy is the same
        cuts.append(Cut(heads, (policy if shared else ungroup)(number, block, kept)))
    return cuts


def cut_(block: Block, architecture: Architecture, cut: Cut) -> None:
    """Cut one block: weights, counting attributes, and what else moves with a head."""
    if cut == Cut(tuple(range(block.n_heads)), tuple(range(block.n_kv_heads))):
        return
    slice_(block, architecture, cut)
    numbers = {
        "heads": len(cut.heads),
        "kv_heads": len(cut.kv_heads),
        "width": len(cut.heads) * block.head_dim,
        "groups": len(cut.heads) // len(cut.kv_heads) if cut.kv_heads else 1,
    }
    for attribute, counts in architecture.shrink.items():
        setattr(block.attention, attribute, numbers[counts])
    held = replace(
        block.held,
        heads=tuple(block.held.heads[i] for i in cut.heads),
        kv_heads=tuple(block.held.kv_heads[i] for i in cut.kv_heads),
        slopes=tuple(block.held.slopes[i] for i in cut.heads) if block.held.slopes else (),
    )
    block.attention.deadhead_heads = held  # type: ignore[assignment]
    if not held.heads:
        behead_(block.attention, architecture)
    elif architecture.after_cut is not None:
        architecture.after_cut(block.attention, held.slopes or held.heads)
