"""What a caller may pass as a plan: a plan, a mask, or a list of heads; obeyed whole or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from torch import nn

from deadhead.errors import HeadError
from deadhead.models.heads import HeadModel
from deadhead.types import COPYING, Head, HeadLike, HeadMask, PruningPlan

# the heads to drop may be given per block as well: {0: [1, 2]}, as in transformers 4
PlanLike = PruningPlan | HeadMask | Iterable[HeadLike] | Mapping[Any, Iterable[int]]


def as_view(model: nn.Module | HeadModel) -> HeadModel:
    """Return the view of a model; a view is returned as it is.

    Raises:
        UnsupportedModelError: as `HeadModel`.
    """
    return model if isinstance(model, HeadModel) else HeadModel(model)


def as_mask(view: HeadModel, given: PlanLike) -> HeadMask:
    """Return the mask that a plan, a mask, or a list of heads to drop stands for.

    Raises:
        HeadError: it is none of these, is for another model, or is a plan that does more than mask:
            it has a repair, or its heads become copies of others.
    """
    if isinstance(given, PruningPlan):
        _check_no_repair(given)
        if given.copies and given.action in COPYING:
            raise HeadError(
                f"the plan's action is {given.action!r}, so its heads become copies of others, and"
                " this function only switches heads off; use applied or apply_, or pass plan.mask"
            )
        given = given.mask
    if not isinstance(given, HeadMask):
        given = view.mask.drop(*_heads_in(given))
    given.check_shape(view.mask.counts)
    return given


def as_plan(view: HeadModel, given: PlanLike, action: str | None = None) -> PruningPlan:
    """Return the plan that a plan, a mask, or a list of heads to drop stands for.

    Args:
        view: the model.
        given: a plan, a mask, or heads as `Head`, `(3, 7)` or `"3.7"`.
        action: the only action that the caller takes; None: every action.

    Raises:
        HeadError: it is none of these, is for another model, has another action, or has a repair.
    """
    if not isinstance(given, PruningPlan):
        return PruningPlan(as_mask(view, given), action=action or "remove")
    _check_no_repair(given)
    if action not in (None, given.action):
        raise HeadError(
            f"the plan's action is {given.action!r}, and {action}_ obeys {action!r} only; use"
            " apply_, which obeys every plan"
        )
    given.mask.check_shape(view.mask.counts)
    return given


def _check_no_repair(plan: PruningPlan) -> None:
    if plan.repair != "none":
        raise HeadError(
            f"the plan has repair {plan.repair!r}, which needs calibration data: use"
            " result.apply_(model) for what prune returned, deadhead.repair_ or 'deadhead apply'"
            ' for a plan with data, or leave it out: replace(plan, repair="none") (--repair none)'
        )


def _heads_in(given: Any) -> list[Head]:
    if isinstance(given, Mapping):
        return heads_of_blocks(given)
    pair = isinstance(given, tuple) and isinstance(next(iter(given), None), Integral)
    heads: Iterable[Any] = [given] if pair or isinstance(given, str) else given
    try:
        return list(map(Head.parse, heads))
    except (TypeError, HeadError) as error:
        raise HeadError(
            f"{given!r:.80} is no plan; pass a PruningPlan, a HeadMask, or a list of heads such as"
            ' ["3.7", (0, 1)]'
        ) from error


def heads_of_blocks(given: Mapping[Any, Any]) -> list[Head]:
    """Read `{block: [heads]}`; blocks may be text, as JSON has them.

    Raises:
        HeadError: something in it is no head.
    """
    found = []
    for block, heads in given.items():
        several = isinstance(heads, Iterable) and not isinstance(heads, str | Mapping)
        indices: list[Any] = [0, *heads] if several else [None]
        try:
            _, *named = [
                Head.parse(f"{block}.{n}" if isinstance(block, str) else (block, n))
                for n in indices
            ]
        except HeadError as error:
            raise HeadError(
                f"{block!r:.40}: {heads!r:.80} is no list of heads of a block; give the heads to"
                " remove by block, such as {0: [1, 2], 3: [0]}"
            ) from error
        found += named
    return found
