"""The laws of repair: a repaired mask is the repaired cut, and what was put in comes out again."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from copies import plan_for
from deadhead import HeadModel, PruningPlan, masked
from deadhead.errors import HeadError
from deadhead.repair import (
    applied_repaired,
    apply_repaired_,
    fit,
    repair_names,
    repaired,
    without_training,
)
from deadhead.scoring import Scorer
from deadhead.surgery import POLICIES
from masks import legal_mask, random_mask
from models import MODEL_TYPES, batch, kinds_of, make, outputs

GQA = ("llama", "mistral", "qwen2", "qwen3")
REPAIRS = tuple(name for name in repair_names() if name != "none")
CALIBRATION = batch((9, 6, 4, 7, 5, 9, 8, 3), seed=5)

WITH_BIAS = "least_squares:own=0:bias=true"  # also gives projections biases that they lack


@functools.cache
def moments_of(model_type, kind):
    return Scorer(make(model_type, kind), [CALIBRATION], "reconstruction", loss="kl").moments


def check(model_type, kind, plan, repair):
    model, inputs = make(model_type, kind), batch()
    view = HeadModel(model)
    plan = without_training(replace(plan, repair=repair))
    fits = fit(view, plan, moments_of(model_type, kind), batches=[CALIBRATION])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with masked(model, plan.mask):
        unrepaired = outputs(model, inputs)
    with repaired(view, plan.mask, fits):
        expected = outputs(model, inputs)
    with applied_repaired(view, plan, fits):
        assert torch.equal(outputs(model, inputs), expected)
    after = model.state_dict()
    assert list(after) == list(before), "a bias has stayed, or gone"
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert (expected - unrepaired).abs().max() > 1e-9, "the repair does nothing"
    apply_repaired_(model, plan, fits)
    assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
    return model


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.slow
def test_a_repaired_mask_equals_the_repaired_cut(model_type, repair):
    for kind in kinds_of(model_type):
        for seed in range(3):  # 0 takes every head of block 0
            mask = random_mask(HeadModel(make(model_type, kind)).mask, seed)
            model = check(model_type, kind, PruningPlan(mask, gqa="ungroup"), repair)
            assert HeadModel(model).mask == mask


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_masks_and_folds_are_repaired_as_well(model_type):
    whole = HeadModel(make(model_type)).mask
    plan = PruningPlan(random_mask(whole, 0), action="mask")
    model = check(model_type, "classification", plan, WITH_BIAS)
    assert HeadModel(model).mask == whole
    for seed in (1, 2):
        fold = plan_for(make(model_type), seed, action="fold")
        model = check(model_type, "classification", fold, WITH_BIAS)
        assert HeadModel(model).mask == fold.mask


@pytest.mark.parametrize("gqa", POLICIES)
@pytest.mark.parametrize("model_type", GQA)
def test_every_policy_for_shared_key_value_heads_is_repaired(model_type, gqa):
    for seed in (0, 1, 2):
        mask = legal_mask(HeadModel(make(model_type)).mask, seed, gqa, group=3)
        if not mask.dropped:
            continue
        check(model_type, "causal_lm", PruningPlan(mask, gqa=gqa), WITH_BIAS)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_repaired_model_is_cut_and_repaired_again(model_type):
    model, inputs = make(model_type), batch()
    whole = HeadModel(model).mask
    first = random_mask(whole, 0, share=0.3)
    second = first & random_mask(whole, 3, share=0.4)
    for mask in (first, second):
        view = HeadModel(model)
        plan = PruningPlan(mask, gqa="ungroup", repair="bias")
        fits = fit(view, plan, Scorer(view, [CALIBRATION], None, moments=True).moments)
        with repaired(view, mask, fits):
            expected = outputs(model, inputs)
        apply_repaired_(view, plan, fits)
        assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
        assert HeadModel(model).mask == mask == view.mask


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_model_without_any_head_adds_what_it_added_on_average(model_type):
    model = make(model_type)
    mask = HeadModel(model).mask
    none = mask.drop(*mask.heads)
    model = check(model_type, "classification", PruningPlan(none), WITH_BIAS)
    assert HeadModel(model).mask == none


@pytest.mark.parametrize("model_type", ("bert", "gpt2", "qwen2"))
def test_everything_comes_back_after_an_error(model_type):
    model = make(model_type)
    view = HeadModel(model)
    mask = random_mask(view.mask, 0)
    plan = PruningPlan(mask, repair=WITH_BIAS)
    fits = fit(view, plan, moments_of(model_type, "classification"))
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    dense = outputs(model, batch())
    with pytest.raises(RuntimeError, match="stop"), repaired(view, mask, fits):
        raise RuntimeError("stop")
    broken = {**fits, max(fits): type(fits[0])(fits[0].weight[:, :-1], fits[0].bias)}
    match = rf"the fit of block {max(fits)} has a weight of shape .* use the fits of this model"
    with pytest.raises(HeadError, match=match), repaired(view, mask, broken):
        pytest.fail("a fit of another shape was put in")
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[n], value) for n, value in before.items())
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}
    assert torch.equal(outputs(model, batch()), dense)
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert not any(hasattr(b.attention, "deadhead_heads") for b in view.blocks)
