"""Removal: cut heads out of the weights."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from deadhead.errors import HeadError, UnsupportedModelError
from deadhead.models.architectures import project_nothing, records_named
from deadhead.models.architectures.adapters import select_features
from deadhead.models.blocks import Block
from deadhead.models.heads import HeadModel
from deadhead.models.manifest import record_in_config
from deadhead.surgery.groups import policy_named, ungroup
from deadhead.surgery.plans import PlanLike, as_plan, as_view
from deadhead.surgery.slicing import Cut, slice_
from deadhead.types import PruningPlan


def remove_(model: nn.Module | HeadModel, plan: PlanLike) -> nn.Module:
    """Remove the heads that `plan` drops from the weights of a model, in place.

    Logits equal those of `masked` to rounding. A block that loses all heads keeps its output bias
    and skips attention. The whole plan is checked before the first weight is touched. A model can
    be cut again; heads keep their original indices. A transformers model's config records the cut,
    so that plain `save_pretrained` writes a checkpoint that loads after `import deadhead`.

    Args:
        model: the model.
        plan: a plan without a repair, a mask, or a list of heads to remove.

    Cost: one copy of each cut block's kept weights; no forward pass.

    Raises:
        HeadError: the plan is for another model or action, has a repair, or keeps a head that has
            been removed.
        ModelInUseError: the model is masked or hooked at the moment.
        GroupError: the plan cuts half a key/value group, against its `gqa` policy.
        UnknownNameError: the plan's `gqa` policy is not known.
        UnsupportedModelError: a block of a custom module loses every head, and its record
            does not say what it then returns; a record does not say how to cut grouped keys in a
            fused projection; or weights are not in memory.
    """
    view = as_view(model)
    plan = as_plan(view, plan, "remove")
    with view.changing("remove heads"):
        cut_blocks_(view, cuts_of(view, plan))
    return view.model


def cut_blocks_(view: HeadModel, cuts: Sequence[Cut]) -> None:
    """Cut every block, and record it in the config."""
    for block, cut in zip(view.blocks, cuts, strict=True):
        cut_(block, cut)
    view.refresh()
    record_in_config(view)


def cuts_of(view: HeadModel, plan: PruningPlan) -> list[Cut]:
    """Return what each block keeps under a plan's mask, or raise as `remove_` does."""
    present = view.mask
    plan.mask.check_shape(present.counts)
    lost = [h for h in plan.mask.heads if not present.keeps(h)]
    if lost:
        raise HeadError(
            f"the plan keeps head {lost[0]}, which has been removed from this model;"
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
        if shared and block.record.fused and not block.record.shrink:
            raise UnsupportedModelError(
                f"cannot remove heads of block {number}: queries and grouped keys share one"
                f" projection, and the record of {block.record.model_type!r} does not say by"
                " which attributes of its attention they are divided; add them as shrink={...}, or"
                " use the action mask"
            )
        cuts.append(Cut(heads, (policy if shared else ungroup)(number, block, kept)))
    return cuts


def cut_(block: Block, cut: Cut) -> None:
    """Cut one block: weights, counting attributes, and what else moves with a head."""
    if cut == Cut(tuple(range(block.n_heads)), tuple(range(block.n_kv_heads))):
        return
    slice_(block, cut)
    numbers = {
        "heads": len(cut.heads),
        "kv_heads": len(cut.kv_heads),
        "width": len(cut.heads) * block.head_dim,
        "kv_width": len(cut.kv_heads) * block.head_dim,
        "groups": len(cut.heads) // len(cut.kv_heads) if cut.kv_heads else 1,
    }
    for attribute, counts in block.record.shrink.items():
        _set_(block.attention, attribute, numbers[counts])
    original = replace(
        block.original,
        heads=tuple(block.original.heads[i] for i in cut.heads),
        kv_heads=tuple(block.original.kv_heads[i] for i in cut.kv_heads),
        slopes=tuple(block.original.slopes[i] for i in cut.heads) if block.original.slopes else (),
    )
    block.attention.deadhead_heads = original  # type: ignore[assignment]
    for rows in block.selected:
        whole = rows.of.unit == "heads"
        units = original.heads if whole else original.kv_heads
        count = original.n_heads if whole else original.n_kv_heads
        select_features(rows.module, rows.rows(units, count))
    if not original.heads:
        disable_attention_(block)
    elif block.record.after_cut is not None:
        block.record.after_cut(block.attention, original.slopes or original.heads)


def _set_(module: Any, path: str, value: int) -> None:
    """Set an attribute at a dotted path; a config on the way becomes the module's own."""
    *parents, name = path.split(".")
    for parent in parents:
        child = getattr(module, parent)
        if isinstance(child, PreTrainedConfig):
            child = copy.copy(child)
            setattr(module, parent, child)
        module = child
    setattr(module, name, value)


class Headless:
    """Mixed into the class of an attention module, in front of it: replaces its forward."""

    deadhead_record: tuple[str, str]  # model type and stack: a record may hold functions

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return (what the block adds, attention maps of no heads), or the first alone."""
        module: Any = self
        _remember_tokens(module, hidden_states, (*args, *kwargs.values()))
        name, stack = self.deadhead_record
        architecture = next(r for r in records_named(name) if r.stack == stack)
        if not callable(architecture.headless):
            path = architecture.output.removeprefix(f"{architecture.attention}.")
            result = project_nothing(module.get_submodule(path), hidden_states)
        else:
            result = architecture.headless(module, hidden_states, args)
        if architecture.maps == "none":
            return result
        batch, tokens = hidden_states.shape[:2]
        return result, hidden_states.new_zeros(batch, 0, tokens, tokens)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the class that the module had, since this one is made on the fly."""
        return _rebuild, (type(self).__mro__[2],), self.__dict__


def _remember_tokens(attention: Any, hidden: Tensor, arguments: tuple[Any, ...]) -> None:
    """Put one number per token into the cache, so that it keeps counting tokens.

    Caches take the number of tokens seen from their first layer, which may be this one.
    """
    for cache in arguments:
        if hasattr(cache, "get_seq_length") and hasattr(cache, "update"):
            token = hidden.new_zeros(hidden.shape[0], 1, hidden.shape[1], 1)
            cache.update(token, token, attention.layer_idx)


@functools.cache
def _headless_class(cls: type[nn.Module]) -> type[nn.Module]:
    return type(f"Headless{cls.__name__}", (Headless, cls), {})


def _rebuild(cls: type[nn.Module]) -> nn.Module:
    made = _headless_class(cls)
    return made.__new__(made)


def check_headless(view: HeadModel, number: int) -> None:
    """Refuse to remove every head of a block if its return value is then unknown.

    Raises:
        UnsupportedModelError: it is a custom module, and its record does not say.
    """
    record = view.blocks[number].record
    if record.headless == "refused":
        raise UnsupportedModelError(
            f"cannot remove every head of block {number}: the attention of"
            f" {record.model_type!r} needs at least one; keep a head of it, or use the action mask"
        )
    if record.maps == "interface" and not hasattr(view.model, "set_attn_implementation"):
        raise UnsupportedModelError(
            f"cannot remove every head of block {number}: the record of"
            f" {record.model_type!r} does not say what its attention returns; give it"
            ' maps="output" (output, maps) or maps="none" (output alone), or keep a head'
        )


def disable_attention_(block: Block) -> None:
    """Make a block's attention skip attention, in place; its children and names are kept."""
    if block.record.headless == "sliced":
        return
    attention, record = block.attention, block.record
    attention.__class__ = _headless_class(type(attention))
    attention.deadhead_record = (record.model_type, record.stack)  # type: ignore[assignment]
