"""What is refitted, what is left alone, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from copies import plan_for
from deadhead import Head, HeadModel, PruningPlan, remove_
from deadhead.errors import DataError, GroupError, HeadError, ScoreError, UnknownNameError
from deadhead.models.blocks import output_rows
from deadhead.moments import Moments
from deadhead.options.settings import Distillation
from deadhead.options.values import DEFAULT_REPAIR
from deadhead.repair import (
    REPAIRS,
    Fit,
    applied_repaired,
    apply_repaired_,
    fit,
    least_squares,
    repair_,
    repair_names,
    repair_notes,
    repaired,
    without_training,
    write_fits_,
)
from deadhead.scoring import Scorer
from deadhead.surgery import apply_
from masks import random_mask
from models import MODEL_TYPES, batch, make, outputs

LENGTHS = (9, 6, 4, 7, 5, 9, 8, 3)
NAMES = tuple(name for name in repair_names() if name != "none")
SEQUENTIAL = "least_squares_sequential"


def moments_of(model):
    return Scorer(model, [batch(LENGTHS)], "reconstruction", loss="kl").moments


def fit_on(view, plan, repair):
    plan = replace(plan, repair=repair)
    return fit(view, plan, moments_of(view.model), batches=[batch(LENGTHS)])


def unchanged(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    return lambda: (
        list(before) == list(model.state_dict())
        and all(torch.equal(model.state_dict()[n], value) for n, value in before.items())
    )


@pytest.mark.parametrize("repair", NAMES)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_with_no_head_removed_nothing_is_fitted_and_nothing_changes(model_type, repair):
    model = make(model_type)
    view, dense = HeadModel(model), outputs(model, batch())
    same = unchanged(model)
    plan = without_training(PruningPlan(view.mask, repair=repair))
    fits = fit_on(view, plan, repair)
    assert fits == {}
    with repaired(view, view.mask, fits):
        assert torch.equal(outputs(model, batch()), dense)
    apply_repaired_(model, plan, fits)
    assert same()
    assert torch.equal(outputs(model, batch()), dense)


@pytest.mark.parametrize("repair", NAMES)
def test_fitting_does_not_touch_the_model(repair):
    model = make("gpt2")
    same, view = unchanged(model), HeadModel(model)
    fits = fit_on(view, PruningPlan(random_mask(view.mask, 0)), repair)
    assert same()
    assert set(fits) == {0, 1, 2}


@pytest.mark.parametrize("repair", NAMES)
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "qwen2"))
def test_a_block_that_loses_every_head_adds_its_mean_output_or_keeps_its_bias(model_type, repair):
    model = make(model_type)
    view = HeadModel(model)
    mask = view.mask.drop(*(h for h in view.mask.heads if h.block == 1))
    moments = moments_of(model)
    found = fit_on(view, PruningPlan(mask), repair)[1]
    assert not found.weight.any()
    output = view.blocks[1].output
    if found.bias is None:  # least_squares leaves it as it is
        assert repair in ("least_squares", "distill")
        return
    weighted = moments.blocks if repair == SEQUENTIAL else moments.gradient_weighted
    seen, share = weighted[1], REPAIRS[REPAIRS[repair].begins_with or repair].own
    seen = seen.mixed(moments.own()[1], share) if share else seen
    expected = output_rows(output).detach() @ seen.mean
    expected = expected if output.bias is None else expected + output.bias.detach()
    torch.testing.assert_close(found.bias, expected, atol=1e-12, rtol=0)


def test_bias_is_the_mean_of_what_went():
    model = make("bert")
    view = HeadModel(model)
    moments = moments_of(model)
    gone = [Head(2, 1), Head(2, 4)]
    found = fit(view, PruningPlan(view.mask.drop(*gone), repair="bias"), moments)
    assert set(found) == {2}
    mean = moments.gradient_weighted[2].mean
    slices = [
        view.head_weights(h)["output"].detach() @ mean[4 * h.index : 4 * h.index + 4] for h in gone
    ]
    bias = view.blocks[2].output.bias.detach()
    torch.testing.assert_close(found[2].bias, bias + slices[0] + slices[1])
    kept = [f for f in range(24) if f // 4 not in (1, 4)]
    assert torch.equal(found[2].weight[:, kept], view.blocks[2].output.weight[:, kept].detach())


@pytest.mark.parametrize("repair", NAMES)
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "llama", "bloom"))
def test_a_fold_of_heads_that_are_the_same_has_nothing_to_repair(model_type, repair):
    model = make(model_type)
    plan = plan_for(model, 1)
    apply_(model, plan)  # now each is what it will be folded into
    plan = without_training(replace(plan, action="fold", repair=repair))
    dense = outputs(model, batch())
    fits = fit_on(HeadModel(model), plan, repair)
    apply_repaired_(model, plan, fits)
    assert HeadModel(model).mask == plan.mask
    assert (outputs(model, batch()) - dense).abs().max() < 1e-8


def test_a_cut_model_is_repaired_in_its_own_positions():
    model = make("bert")
    remove_(model, PruningPlan(random_mask(HeadModel(model).mask, 0)))
    view = HeadModel(model)
    block = view.blocks[1]
    goes = Head(1, block.original.heads[1])
    plan = PruningPlan(view.mask.drop(goes), repair="least_squares")
    found = fit(view, plan, moments_of(model))
    assert set(found) == {1}, "block 0 has had no heads to lose"
    assert found[1].weight.shape == (24, 4 * block.n_heads)
    assert not found[1].weight[:, 4:8].any()
    assert found[1].weight[:, :4].any()


def test_duplicated_heads_are_refused():
    model = make("bert")
    plan = plan_for(model, 1)
    with pytest.raises(HeadError, match=r"duplicated heads cannot be repaired: .* action fold"):
        fit(HeadModel(model), replace(plan, repair="least_squares"), moments_of(model))


def test_a_fold_across_blocks_is_refused_before_anything_is_touched():
    model = make("bert")
    view, same = HeadModel(model), unchanged(model)
    copies = {Head(1, 2): Head(0, 2)}
    plan = PruningPlan(view.mask.drop(Head(1, 2)), copies, "fold", repair="bias")
    moments = moments_of(model)
    with pytest.raises(HeadError, match=r"cannot fold head 1\.2 into 0\.2: .* different blocks"):
        apply_repaired_(model, plan, fit(view, plan, moments))
    with (
        pytest.raises(HeadError, match=r"cannot fold head 1\.2 into 0\.2"),
        applied_repaired(view, plan, fit(view, plan, moments)),
    ):
        pytest.fail("it was folded")
    assert same()


def test_half_a_key_value_group_is_refused_before_anything_is_touched():
    model = make("qwen2")
    view, same = HeadModel(model), unchanged(model)
    plan = PruningPlan(view.mask.drop(Head(1, 2)), gqa="whole_groups", repair="bias")
    with pytest.raises(GroupError, match=r"1\.2"):
        apply_repaired_(model, plan, fit(view, plan, moments_of(model)))
    assert same()
    assert not any(hasattr(b.attention, "deadhead_heads") for b in HeadModel(model).blocks)


def test_a_plan_for_another_model_is_refused():
    model = make("bert")
    plan = PruningPlan(HeadModel(model).mask.full((6, 6)))
    with pytest.raises(HeadError, match="use the plan of this model"):
        fit(HeadModel(model), replace(plan, repair="bias"), moments_of(model))


@pytest.mark.parametrize("shapes", [((24, 20), (24,)), ((24, 24), (23,)), ((20, 24), (20,))])
def test_fits_of_another_shape_are_refused_before_anything_is_touched(shapes):
    model = make("gpt2")
    view, same = HeadModel(model), unchanged(model)
    plan = PruningPlan(view.mask.drop(Head(0, 1), Head(1, 2)), repair="bias")
    fits = fit_on(view, plan, "bias")
    fits[1] = Fit(*(torch.zeros(shape) for shape in shapes))
    match = rf"block 1 has a weight of shape \[{shapes[0][0]}, .* has \[24, 24\] and .* \[24\]"
    for put_in in (apply_repaired_, lambda *a: write_fits_(view, a[2])):
        with pytest.raises(HeadError, match=match) as caught:
            put_in(model, plan, fits)
        assert "\n" not in str(caught.value)
    for context in (applied_repaired(view, plan, fits), repaired(view, plan.mask, fits)):
        with pytest.raises(HeadError, match=match), context:
            pytest.fail("it was put in")
    fits[1], fits[7] = fits[0], fits[0]
    with pytest.raises(HeadError, match=r"fit of block 7 .* the model has blocks 0 to 2"):
        apply_repaired_(model, plan, fits)
    assert same()


def test_a_fit_that_is_not_finite_names_the_block():
    model = make("bert")
    view = HeadModel(model)
    moments = moments_of(model)
    with torch.no_grad():
        view.blocks[1].output.weight[0, 0] = torch.inf
    plan = PruningPlan(view.mask.drop(Head(0, 2), Head(1, 2)))
    for repair in ("bias", "least_squares:own=0"):  # text of its own is not finite before
        with pytest.raises(
            ScoreError, match=r"fit of block 1 \(bert\.encoder\.layer\.1\) is not finite"
        ):
            fit(view, replace(plan, repair=repair), moments)


def test_singular_moments_name_the_block(monkeypatch):
    monkeypatch.setattr(least_squares, "RIDGES", (0.0,))
    model = make("bert")
    with torch.no_grad():
        for part in ("value", "value_bias"):
            HeadModel(model).head_weights(Head(2, 3))[part].zero_()
    plan = PruningPlan(HeadModel(model).mask.drop(Head(2, 0)))
    match = r"moments of block 2 \(bert\.encoder\.layer\.2\) are singular, .* choose repair bias$"
    with pytest.raises(ScoreError, match=match) as caught:
        fit_on(HeadModel(model), plan, "least_squares")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("repair", ("least_squares", "distill", SEQUENTIAL))
def test_fewer_tokens_than_unknowns_are_told_or_refused(repair):
    view = HeadModel(make("bert"))
    plan = PruningPlan(view.mask.drop(Head(0, 0), Head(0, 1), Head(1, 0)))  # 16 and 20 left
    enough, few = batch((9, 9, 6)), batch((9, 9))
    moments = Scorer(view, [few], None).moments
    plan = replace(plan, repair=repair)
    found = fit(view, plan, moments, batches=[few])
    (note,) = repair_notes(found)
    assert "block 1 has 18 calibration tokens for 20 unknowns per output feature" in note
    assert note.endswith("give more calibration texts")
    assert found[0].facts["tokens"] == 18
    with pytest.raises(DataError, match=r"block 1 has 18 calibration tokens .* without strict$"):
        fit(view, plan, moments, batches=[few], strict=True)
    with pytest.raises(DataError, match="18 calibration tokens"):
        repair_(make("bert"), [few], plan, strict=True)
    moments = Scorer(view, [enough], None).moments
    assert repair_notes(fit(view, plan, moments, batches=[enough], strict=True)) == []


def test_a_bias_has_no_unknowns_to_be_short_of():
    view = HeadModel(make("bert"))
    plan = PruningPlan(view.mask.drop(Head(0, 0)))
    few = Scorer(view, [batch((3,))], None).moments
    assert repair_notes(fit(view, replace(plan, repair="bias"), few, strict=True)) == []


def test_a_repair_that_runs_the_data_itself_asks_for_them():
    view = HeadModel(make("bert"))
    plan = PruningPlan(view.mask.drop(Head(0, 0)))
    with pytest.raises(DataError, match="data block by block, and got none; give batches"):
        fit(view, replace(plan, repair=SEQUENTIAL), moments_of(view.model))
    with pytest.raises(DataError, match="there are no calibration samples"):
        fit(view, replace(plan, repair=SEQUENTIAL), None, batches=[])


def test_an_unknown_repair_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'least_squares'"):
        _ = REPAIRS["least_square"]
    view = HeadModel(make("bert"))
    assert fit(view, PruningPlan(view.mask.drop("0.1"), repair="none"), None) == {}
    assert repair_names()[0] == "none"


def test_a_block_that_was_not_seen_is_refused():
    view = HeadModel(make("bert"))
    nothing = Moments((None,) * 3, (None,) * 3, (None,) * 3, 0)
    with pytest.raises(ScoreError, match="nothing was seen of block 1 to repair it"):
        fit(view, PruningPlan(view.mask.drop(Head(1, 0)), repair="bias"), nothing)


@pytest.mark.parametrize("repair", NAMES)
def test_repair_in_place_is_measuring_fitting_and_applying(repair):
    model, inputs = make("llama"), batch(LENGTHS)
    view = HeadModel(model)
    plan = PruningPlan(random_mask(view.mask, 0), gqa="ungroup", repair=repair)
    fits = fit_on(view, plan, repair)
    with repaired(view, plan.mask, fits):
        expected = outputs(model, inputs)
    del inputs["labels"]
    if repair == "distill":
        return
    repair_(model, [inputs], plan)
    assert (outputs(model, inputs) - expected).abs().max() < 1e-10
    with pytest.raises(HeadError, match="needs calibration data"):
        apply_(make("llama"), plan)
    with pytest.raises(DataError, match="the data are empty"):
        repair_(make("llama"), [], plan)


def repairs_and_what_contradicts_them():
    """Plans with fits that are not what the plan says, and what is said of it."""
    none, bias, distill = "none", "bias", "distill"
    return [
        (bias, {}, "there is no fit of block 0"),
        (bias, {0}, "there is no fit of block 1"),
        (none, {0, 1}, "does not repair that block"),
        (bias, {0, 1, 2}, "fit of block 2, and the plan with repair 'bias' does not repair that"),
        (distill, {0, 1}, "repair 'distill', which trains the cut model"),
        (distill, {}, "repair 'distill', which trains the cut model"),
    ]


@pytest.mark.parametrize("action", ["remove", "mask"])
@pytest.mark.parametrize(("repair", "blocks", "said"), repairs_and_what_contradicts_them())
def test_a_plan_is_repaired_as_it_says_or_refused(repair, blocks, said, action):
    model = make("bert")
    view, same = HeadModel(model), unchanged(model)
    every = fit_on(view, PruningPlan(view.mask.drop("0.1", "1.2", "2.3")), "bias")
    plan = PruningPlan(view.mask.drop("0.1", "1.2"), action=action, repair=repair)
    fits = {number: every[number] for number in blocks}
    with pytest.raises(HeadError, match=said):
        apply_repaired_(model, plan, fits)
    with pytest.raises(HeadError, match=said), applied_repaired(view, plan, fits):
        pytest.fail("it was applied")
    assert same()


@pytest.mark.parametrize("given", [[(0, 1), "1.2"], "mask"])
def test_heads_and_masks_get_the_default_repair(given):
    model, by_plan = make("bert"), make("bert")
    mask = HeadModel(model).mask.drop("0.1", "1.2")
    repair_(by_plan, [batch(LENGTHS)], PruningPlan(mask, repair=DEFAULT_REPAIR))
    repair_(model, [batch(LENGTHS)], mask if given == "mask" else given)
    assert torch.equal(outputs(model, batch()), outputs(by_plan, batch()))


@pytest.mark.slow
def test_distill_in_place_trains():
    model, trained = make("bert"), make("bert")
    plan = PruningPlan(
        HeadModel(model).mask.drop("0.1", "0.2", "0.3", "1.2", "1.3", "2.1"), repair="least_squares"
    )
    data = [batch(LENGTHS, seed=seed) for seed in range(12)]
    repair_(model, data, plan)
    settings = Distillation(epochs=10, learning_rate=1e-3)
    repair_(trained, data, replace(plan, repair="distill"), distillation=settings)
    assert HeadModel(trained).mask == plan.mask
    assert not torch.equal(outputs(trained, batch()), outputs(model, batch()))
