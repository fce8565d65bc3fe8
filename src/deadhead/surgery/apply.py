"""Carry out a plan with any action: in place, or inside a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from deadhead.models.heads import HeadModel
from deadhead.surgery.duplicate import duplicate_, duplicated
from deadhead.surgery.fold import check_folds, fold_
from deadhead.surgery.mask import mask_, masked
from deadhead.surgery.plans import PlanLike, as_plan, as_view
from deadhead.surgery.remove import cuts_of, remove_
from deadhead.types import COPYING, PruningPlan

ACTION: dict[str, Callable[[HeadModel, PruningPlan], nn.Module]] = {
    "remove": remove_,
    "mask": mask_,
    "duplicate": duplicate_,
    "fold": fold_,
}


def apply_(model: nn.Module | HeadModel, plan: PlanLike) -> nn.Module:
    """Do to a model what a plan says, in place: remove, mask, duplicate or fold.

    The whole plan is checked before the first weight is touched.

    Args:
        model: the model.
        plan: a plan, or a mask or a list of heads to remove.

    Raises:
        HeadError, GroupError: as `remove_`, `mask_`, `duplicate_` and `fold_`.
        HeadError: the plan has a repair, which needs data; see `deadhead.repair_`.
    """
    view = as_view(model)
    plan = as_plan(view, plan)
    return ACTION[plan.action](view, plan)


@contextmanager
def applied(model: nn.Module | HeadModel, plan: PlanLike) -> Iterator[nn.Module]:
    """Let a model compute what it would compute after `apply_`, until the context is left.

    Gates stand in for removal and duplication for folding, which give the same logits to rounding.
    The weights are restored bit for bit, so one loaded model serves any number of plans.

    Raises:
        HeadError, GroupError: as `apply_`.
    """
    view = as_view(model)
    plan = as_plan(view, plan)
    if plan.action == "remove":
        cuts_of(view, plan)
    if plan.action == "fold":
        check_folds(view, plan)
    with ExitStack() as stack:
        mask = plan.mask
        if plan.action in COPYING:
            stack.enter_context(duplicated(view, plan))
            alone = [h for h in plan.mask.dropped if h not in plan.copies]
            mask = view.mask.drop(*alone)
        stack.enter_context(masked(view, mask))
        yield model if isinstance(model, nn.Module) else view.model
