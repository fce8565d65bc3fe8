"""What surgery takes: plans, masks, lists of heads; and what it refuses to do halfway."""

from __future__ import annotations

import copy

import pytest
import torch

from deadhead import Head, HeadMask, HeadModel, PruningPlan, applied, apply_, masked, remove_
from deadhead.errors import HeadError
from deadhead.surgery import duplicate_, fold_, mask_
from models import batch, make, outputs

HEADS = (Head(0, 1), Head(2, 5))


def given(view):
    """The same heads, in every way that a person may write them."""
    mask = view.mask.drop(*HEADS)
    return {
        "plan": PruningPlan(mask),
        "mask": mask,
        "heads": list(HEADS),
        "pairs": [(0, 1), (2, 5)],
        "lists": [[0, 1], [2, 5]],
        "text": ["0.1", "2.5"],
        "mixed": (h for h in ("0.1", (2, 5))),
        "a set": set(HEADS),
    }


WAYS = list(given(HeadModel(make("bert"))))
IN_PLACE = {"remove_": remove_, "mask_": mask_, "apply_": apply_, "fold_": fold_}


@pytest.mark.parametrize("way", WAYS)
def test_every_function_takes_every_way_to_name_heads(way):
    inputs = batch()
    model = make("bert")
    expected = outputs(
        remove_(make("bert"), PruningPlan(HeadModel(model).mask.drop(*HEADS))), inputs
    )
    for context in (masked, applied):
        with context(model, given(HeadModel(model))[way]):
            assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
    for name, function in IN_PLACE.items():
        other = make("bert")
        plan = given(HeadModel(other))[way]
        if way == "plan":
            plan = PruningPlan(plan.mask, action=name.removesuffix("_").replace("apply", "remove"))
        function(other, plan)
        assert (outputs(other, inputs) - expected).abs().max() <= 1e-10, name


@pytest.mark.parametrize("one", ["2.5", (2, 5), Head(2, 5)])
def test_one_head_need_not_be_in_a_list(one):
    model = remove_(make("bert"), one)
    assert HeadModel(model).mask.dropped == (Head(2, 5),)


WRONG = [3, None, 3.7, [3], ["a"], ["1"], [(1, 2, 3)], [(9, 9)], ["0.6"], [(-1, 0)], {"mask": 1}]


@pytest.mark.parametrize("wrong", [*WRONG, HeadMask.full((2, 2))], ids=str)
def test_what_is_no_plan_is_refused(wrong):
    model = make("bert")
    before = copy.deepcopy(model.state_dict())
    for function in (*IN_PLACE.values(), duplicate_):
        with pytest.raises(HeadError):
            function(model, wrong)
    for context in (masked, applied):
        with pytest.raises(HeadError), context(model, wrong):
            pass
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("action", ["remove", "mask", "duplicate", "fold"])
@pytest.mark.parametrize("repair", ["bias", "least_squares", "distill"])
def test_a_plan_with_a_repair_is_refused_by_all_who_do_not_repair(repair, action):
    model = make("bert")
    before, mask = copy.deepcopy(model.state_dict()), HeadModel(model).mask
    plan = PruningPlan(mask.drop(Head(1, 0)), {Head(1, 0): Head(1, 1)}, action, repair=repair)
    message = rf"repair '{repair}'.*result\.apply_\(model\).*repair_"
    for function in (*IN_PLACE.values(), duplicate_):
        with pytest.raises(HeadError, match=message):
            function(model, plan)
    for context in (masked, applied):
        with pytest.raises(HeadError, match=message), context(model, plan):
            pass
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("action", ["remove", "mask", "duplicate", "fold"])
def test_every_function_obeys_its_own_action_only(action):
    mask = HeadModel(make("bert")).mask.drop(Head(1, 0))
    plan = PruningPlan(mask, {Head(1, 0): Head(1, 1)}, action)
    functions = {"remove": remove_, "mask": mask_, "duplicate": duplicate_, "fold": fold_}
    for name, function in functions.items():
        if name != action:
            with pytest.raises(HeadError, match=f"action is '{action}', and {name}_ obeys"):
                function(make("bert"), plan)
    assert functions[action](make("bert"), plan) is not None


def test_masking_does_not_make_copies():
    mask = HeadModel(make("bert")).mask.drop(Head(1, 0))
    plan = PruningPlan(mask, {Head(1, 0): Head(1, 1)}, "fold")
    with pytest.raises(HeadError, match="become copies of others"), masked(make("bert"), plan):
        pass
