"""What is refitted, what is left alone, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from copies import plan_for
from deadhead import Head, HeadModel, PruningPlan, remove_
from deadhead.criteria.score import Scorer
from deadhead.errors import DataError, GroupError, HeadError, ScoreError, UnknownNameError
from deadhead.heads import output_rows
from deadhead.moments import Moments
from deadhead.repair import (
    applied_repaired,
    apply_repaired_,
    fit,
    repair_,
    repair_named,
    repair_names,
    repaired,
)
from deadhead.surgery import apply_
from masks import random_mask
from models import MODEL_TYPES, batch, make, outputs

LENGTHS = (9, 6, 4, 7, 5, 9, 8, 3)
REPAIRS = tuple(name for name in repair_names() if name != "none")


def moments_of(model):
    return Scorer(model, [batch(LENGTHS)], ["reconstruction"], loss="kl").moments


def unchanged(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    return lambda: (
        list(before) == list(model.state_dict())
        and all(torch.equal(model.state_dict()[n], value) for n, value in before.items())
    )


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_with_no_head_removed_nothing_is_fitted_and_nothing_changes(model_type, repair):
    model = make(model_type)
    view, dense = HeadModel(model), outputs(model, batch())
    same, plan = unchanged(model), PruningPlan(view.mask, repair=repair)
    fits = fit(view, plan, moments_of(model), repair)
    assert fits == {}
    with repaired(view, view.mask, fits):
        assert torch.equal(outputs(model, batch()), dense)
    apply_repaired_(model, plan, fits)
    assert same()
    assert torch.equal(outputs(model, batch()), dense)


@pytest.mark.parametrize("repair", REPAIRS)
def test_fitting_does_not_touch_the_model(repair):
    model = make("gpt2")
    same, view = unchanged(model), HeadModel(model)
    fits = fit(view, PruningPlan(random_mask(view.mask, 0)), moments_of(model), repair)
    assert same()
    assert set(fits) == {0, 1, 2}


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "qwen2"))
def test_a_block_that_loses_every_head_adds_its_mean_output(model_type, repair):
    model = make(model_type)
    view = HeadModel(model)
    mask = view.mask.drop(*(h for h in view.mask.heads if h.block == 1))
    moments = moments_of(model)
    found = fit(view, PruningPlan(mask), moments, repair)[1]
    output = view.blocks[1].output
    expected = output_rows(output).detach() @ moments.felt[1].mean
    expected = expected if output.bias is None else expected + output.bias.detach()
    torch.testing.assert_close(found.bias, expected, atol=1e-12, rtol=0)
    assert not found.weight.any()


def test_bias_is_the_mean_of_what_went():
    model = make("bert")
    view = HeadModel(model)
    moments = moments_of(model)
    gone = [Head(2, 1), Head(2, 4)]
    found = fit(view, PruningPlan(view.mask.drop(*gone)), moments, "bias")
    assert set(found) == {2}
    mean = moments.felt[2].mean
    slices = [
        view.head_weights(h)["output"].detach() @ mean[4 * h.index : 4 * h.index + 4] for h in gone
    ]
    bias = view.blocks[2].output.bias.detach()
    torch.testing.assert_close(found[2].bias, bias + slices[0] + slices[1])
    kept = [f for f in range(24) if f // 4 not in (1, 4)]
    assert torch.equal(found[2].weight[:, kept], view.blocks[2].output.weight[:, kept].detach())


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "llama", "bloom"))
def test_a_fold_of_heads_that_are_the_same_has_nothing_to_repair(model_type, repair):
    model = make(model_type)
    plan = plan_for(model, 1)
    apply_(model, plan)  # now each is what it will be folded into
    plan = replace(plan, action="fold")
    dense = outputs(model, batch())
    fits = fit(HeadModel(model), plan, moments_of(model), repair)
    apply_repaired_(model, plan, fits)
    assert HeadModel(model).mask == plan.mask
    assert (outputs(model, batch()) - dense).abs().max() < 1e-8


def test_a_cut_model_is_repaired_in_its_own_positions():
    model = make("bert")
    remove_(model, PruningPlan(random_mask(HeadModel(model).mask, 0)))
    view = HeadModel(model)
    block = view.blocks[1]
    goes = Head(1, block.held.heads[1])
    found = fit(view, PruningPlan(view.mask.drop(goes)), moments_of(model), "least_squares")
    assert set(found) == {1}, "block 0 has had no heads to lose"
    assert found[1].weight.shape == (24, 4 * block.n_heads)
    assert not found[1].weight[:, 4:8].any()
    assert found[1].weight[:, :4].any()


def test_duplicated_heads_are_refused():
    model = make("bert")
    plan = plan_for(model, 1)
    with pytest.raises(HeadError, match=r"duplicated heads cannot be repaired: .* action fold"):
        fit(HeadModel(model), plan, moments_of(model), "least_squares")


def test_a_fold_across_blocks_is_refused_before_anything_is_touched():
    model = make("bert")
    view, same = HeadModel(model), unchanged(model)
    plan = PruningPlan(view.mask.drop(Head(1, 2)), {Head(1, 2): Head(0, 2)}, "fold")
    moments = moments_of(model)
    with pytest.raises(HeadError, match=r"cannot fold head 1\.2 into 0\.2: .* different blocks"):
        apply_repaired_(model, plan, fit(view, plan, moments, "least_squares"))
    with (
        pytest.raises(HeadError, match=r"cannot fold head 1\.2 into 0\.2"),
        applied_repaired(view, plan, fit(view, plan, moments, "bias")),
    ):
        pytest.fail("it was folded")
    assert same()


def test_half_a_key_value_group_is_refused_before_anything_is_touched():
    model = make("qwen2")
    view, same = HeadModel(model), unchanged(model)
    plan = PruningPlan(view.mask.drop(Head(1, 2)), gqa="whole_groups")
    with pytest.raises(GroupError, match=r"1\.2"):
        apply_repaired_(model, plan, fit(view, plan, moments_of(model), "bias"))
    assert same()
    assert not any(hasattr(b.attention, "deadhead_heads") for b in HeadModel(model).blocks)


def test_a_plan_for_another_model_is_refused():
    model = make("bert")
    plan = PruningPlan(HeadModel(model).mask.full((6, 6)))
    with pytest.raises(HeadError, match="use the plan of this model"):
        fit(HeadModel(model), plan, moments_of(model), "bias")


def test_an_unknown_repair_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'least_squares'"):
        repair_named("least_square")
    assert fit(HeadModel(make("bert")), PruningPlan(None), None, "none") == {}
    assert repair_names()[0] == "none"


def test_a_block_that_was_not_seen_is_refused():
    view = HeadModel(make("bert"))
    nothing = Moments((None,) * 3, (None,) * 3, (None,) * 3, 0)
    with pytest.raises(ScoreError, match="nothing was seen of block 1 to repair it"):
        fit(view, PruningPlan(view.mask.drop(Head(1, 0))), nothing, "bias")


@pytest.mark.parametrize("repair", REPAIRS)
def test_repair_in_place_is_measuring_fitting_and_applying(repair):
    model, inputs = make("llama"), batch(LENGTHS)
    view = HeadModel(model)
    plan = PruningPlan(random_mask(view.mask, 0), gqa="ungroup", repair=repair)
    fits = fit(view, plan, moments_of(model), repair)
    with repaired(view, plan.mask, fits):
        expected = outputs(model, inputs)
    del inputs["labels"]
    repair_(model, plan, [inputs])
    assert (outputs(model, inputs) - expected).abs().max() < 1e-10
    with pytest.raises(HeadError, match="needs calibration data"):
        apply_(make("llama"), plan)
    with pytest.raises(DataError, match="there are no calibration samples"):
        repair_(make("llama"), plan, [])
