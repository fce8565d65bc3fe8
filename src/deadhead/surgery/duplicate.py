"""Duplication: heads that copy another head's query, key and value weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from deadhead.errors import GroupError, HeadError
from deadhead.models.architectures import PARTS
from deadhead.models.blocks import Block, OriginalHeads
from deadhead.models.heads import HeadModel
from deadhead.models.hooks import uncompiled
from deadhead.models.manifest import record_in_config
from deadhead.surgery.groups import members_of, slot_of
from deadhead.surgery.plans import PlanLike, as_plan, as_view
from deadhead.surgery.slicing import slices_of
from deadhead.types import Head, PruningPlan

Copies = Mapping[Head, Head]


def duplicate_(model: nn.Module | HeadModel, plan: PlanLike) -> nn.Module:
    """Give every head in `plan.copies` the query, key and value weights of its source, in place.

    Each head keeps its own slice of the output projection. Nothing gets smaller: this is what
    explainabloomity did; `fold_` gives the same logits with fewer heads. Where a head's
    position carries an ALiBi slope, `plan.slope` says whose slope the copy has. The whole plan is
    checked before the first weight is touched.

    Cost: one copy of the copied slices; no forward pass.

    Raises:
        HeadError: a head or source that the model does not have, a repair, a source that is copied
            over, or a dropped head without a source.
        GroupError: a head would need another key/value head than the ones it shares it with.
    """
    view = as_view(model)
    plan = as_plan(view, plan, "duplicate")
    check_sources(view, plan)
    with view.changing("duplicate heads"):
        for tensor, rows, values in list(_writes(view, plan.copies)):
            tensor[rows] = values
        if plan.slope == "source":
            for number, slopes in slopes_with(view, plan.copies).items():
                block = view.blocks[number]
                set_slopes_(block, block.original, slopes)
            view.refresh()
            record_in_config(view)
    return view.model


@contextmanager
def duplicated(model: nn.Module | HeadModel, plan: PruningPlan) -> Iterator[nn.Module]:
    """Duplicate as `duplicate_` does, until the context is left; weights are restored exactly.

    Raises:
        HeadError, GroupError: as `duplicate_`.
    """
    view = as_view(model)
    view.check_loaded("duplicate heads")
    if plan.action == "duplicate":
        check_sources(view, plan)
    check_copies(view, plan.copies)
    slopes = slopes_with(view, plan.copies) if plan.slope == "source" else {}
    writes = list(_writes(view, plan.copies))
    before = [(tensor, rows, tensor[rows].clone()) for tensor, rows, _ in writes]
    with view.claimed(), uncompiled(), ExitStack() as stack:
        for tensor, rows, values in before:
            stack.callback(tensor.__setitem__, rows, values)
        for number, indices in slopes.items():
            stack.enter_context(with_slopes(view.blocks[number], indices))
        for tensor, rows, values in writes:
            tensor[rows] = values
        yield view.model


def check_sources(view: HeadModel, plan: PruningPlan) -> None:
    """Refuse a plan that drops a head and does not say whose copy it becomes.

    Raises:
        HeadError, GroupError: as `duplicate_`.
    """
    plan.mask.check_shape(view.mask.counts)
    alone = [h for h in view.mask.heads if not plan.mask.keeps(h) and h not in plan.copies]
    if alone:
        raise HeadError(
            f"the plan drops head {alone[0]} and does not say whose copy it becomes; make it with"
            " --strategy clusters, or choose the action mask or remove"
        )
    check_copies(view, plan.copies)


def check_copies(view: HeadModel, copies: Copies) -> None:
    """Refuse copies that cannot be made.

    Raises:
        HeadError, GroupError: as `duplicate_`.
    """
    for head, source in copies.items():
        for each in (head, source):
            if not view.mask.keeps(each):
                raise HeadError(
                    f"the plan copies head {source} onto {head}, and head {each} has been removed;"
                    " plan from the model as it is now"
                )
        if source in copies:
            raise HeadError(
                f"head {source} is copied onto {head} and is a copy itself, of {copies[source]};"
                " name the first source"
            )
        widths = [view.blocks[h.block].head_dim for h in (head, source)]
        if widths[0] != widths[1]:
            raise HeadError(
                f"head {source} has {widths[1]} features and cannot be copied onto {head} with"
                f" {widths[0]}; copy within one block"
            )
        if kv_differ(view, head, source):
            _check_group(view, head, source, copies)


def kv_differ(view: HeadModel, head: Head, source: Head) -> bool:
    """Whether a copy needs other keys and values than its head has now."""
    if head.block != source.block:
        return True
    block = view.blocks[head.block]
    return slot_of(block, head.index) != slot_of(block, source.index)


def _check_group(view: HeadModel, head: Head, source: Head, copies: Copies) -> None:
    """Let shared keys and values be replaced only for all of their query heads alike."""
    mine, theirs = _group(view, head), _group(view, source)
    if len(mine) == len(theirs) and all(
        copies.get(a) == b for a, b in zip(mine, theirs, strict=True)
    ):
        return
    raise GroupError(
        f"cannot copy head {source} onto {head}: they read different key/value heads, and"
        f" {head} shares its own with {', '.join(str(h) for h in mine if h != head) or 'none'};"
        " group whole key/value heads (--unit kv), or choose the action mask or remove"
    )


def _group(view: HeadModel, head: Head) -> list[Head]:
    block = view.blocks[head.block]
    return [Head(head.block, i) for i in members_of(block)[slot_of(block, head.index)]]


def _writes(view: HeadModel, copies: Copies) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (tensor, rows, new values) for every slice that the copies replace, without writing.

    Values are taken before the first is written; a key/value head is written once.
    """
    seen: set[tuple[int, str, int]] = set()
    for head, source in copies.items():
        parts = PARTS if kv_differ(view, head, source) else PARTS[:1]
        for part in parts:
            at = (head.block, part, _position(view, head, part))
            if at in seen:
                continue
            seen.add(at)
            pairs = zip(_slices(view, head, part), _slices(view, source, part), strict=True)
            for (tensor, rows), (other, those) in pairs:
                yield tensor, rows, other[those].clone()


def _position(view: HeadModel, head: Head, part: str) -> int:
    block = view.blocks[head.block]
    return block.position(head.index) if part == "query" else slot_of(block, head.index)


def _slices(view: HeadModel, head: Head, part: str) -> list[tuple[Tensor, Tensor]]:
    position = _position(view, head, part)
    return slices_of(view.blocks[head.block], part, [position])


def slopes_with(view: HeadModel, copies: Mapping[Head, Head]) -> dict[int, tuple[int, ...]]:
    """Return the slopes of every block that copies change, if copies take their source's slope.

    Shape: `{block: original indices, one per current head}`; empty for models without slopes.
    """
    if not any(record.slopes for record in view.records):
        return {}
    found = {head.block: list(_slopes(view.blocks[head.block])) for head in copies}
    for head, source in copies.items():
        of = view.blocks[source.block]
        slope = _slopes(of)[of.position(source.index)]
        found[head.block][view.blocks[head.block].position(head.index)] = slope
    return {number: tuple(slopes) for number, slopes in found.items()}


def set_slopes_(block: Block, original: OriginalHeads, slopes: tuple[int, ...]) -> None:
    """Give the heads of a block the slopes of these original indices, in place."""
    block.attention.deadhead_heads = replace(original, slopes=slopes)  # type: ignore[assignment]
    if block.record.after_cut is not None:
        block.record.after_cut(block.attention, slopes)


@contextmanager
def with_slopes(block: Block, slopes: tuple[int, ...]) -> Iterator[None]:
    """Give the heads of a block these slopes, until the context is left."""
    attention: Any = block.attention
    names = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "__dict__")
    before = {name: dict(getattr(attention, name)) for name in names}
    try:
        set_slopes_(block, block.original, slopes)
        yield
    finally:
        for name in names[:2]:
            hooks = getattr(attention, name)
            hooks.clear()
            hooks.update(before[name])
        attention.__dict__.pop("deadhead_heads")
        if "deadhead_heads" in before["__dict__"]:
            attention.deadhead_heads = before["__dict__"]["deadhead_heads"]


def _slopes(block: Block) -> tuple[int, ...]:
    return block.original.slopes or block.original.heads
