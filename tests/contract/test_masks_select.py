"""A masked head acts like a removed one whatever it computes: masks select, never multiply."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, applied, masked, remove_, score_all
from deadhead.repair import repaired
from deadhead.repair.fits import fit
from deadhead.scoring import Scorer
from deadhead.scoring.trials import Trials
from deadhead.surgery import mask_
from masks import random_mask
from models import MODEL_TYPES, batch, make, outputs

BAD = (torch.nan, torch.inf, -torch.inf)


def spoil(model, value):
    """Spoil two heads, or the whole first group where keys are shared."""
    view = HeadModel(model)
    block = view.blocks[1]
    heads = [Head(1, i) for i in range(max(2, block.shape.group_size))]
    with torch.no_grad():
        for head in heads:
            weights = view.head_weights(head)
            weights["value"][0, :2] = value
            weights["query"][1, 1] = value
    return heads


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_masked_is_removed_for_heads_that_are_not_finite(model_type, value):
    model, inputs = make(model_type), batch()
    heads = spoil(model, value)
    assert not torch.isfinite(outputs(model, inputs)).all()
    cut = make(model_type)
    spoil(cut, value)
    remove_(cut, heads)
    expected = outputs(cut, inputs)
    assert torch.isfinite(expected).all()
    for context in (masked, applied):
        with context(model, heads):
            assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
    view, mask = HeadModel(model), HeadModel(model).mask.drop(*heads)
    zeros = [torch.tensor([float(k) for k in row], dtype=torch.float64) for row in mask.kept]
    for gates in (zeros, [g.expand(3, -1) for g in zeros], [g.bool() for g in zeros]):
        with view.gated(gates):
            assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
    with repaired(view, mask, {}):
        assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
    mask_(model, heads)
    assert (outputs(model, inputs) - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "bloom"))
def test_trials_and_scores_without_such_heads_are_those_of_the_cut_model(model_type, value):
    model, inputs, cut = make(model_type), batch(), make(model_type)
    heads = spoil(model, value)
    spoil(cut, value)
    remove_(cut, heads)
    mask = HeadModel(model).mask.drop(*heads)
    masks = [mask, *(mask.drop(h) for h in mask.heads[::4])]
    found = Trials(HeadModel(model), [inputs], mask=mask).losses(masks)
    expected = Trials(HeadModel(cut), [inputs]).losses(masks)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    names = ["ablation", "output_norm", "attention_entropy", "confidence"]
    scores = score_all(model, [inputs], names, mask=mask)
    for name, other in score_all(cut, [inputs], names).items():
        for a, b in zip(scores[name].values, other.values, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("model_type", ("bert", "gpt2"))
def test_gates_of_finite_models_keep_their_gradients_also_at_zero(model_type):
    model, inputs = make(model_type), batch()
    view = HeadModel(model)

    def run(gates):
        with view.gated(gates):
            return model(**inputs).loss

    gates = [torch.ones(3, b.n_heads, dtype=torch.float64) for b in view.blocks]
    gates[1][:, :2] = 0
    for gate in gates:
        gate.requires_grad_()
    slopes = torch.autograd.grad(run(gates), gates)
    h = 1e-5
    for at in ((0, 2, 1), (1, 0, 0), (1, 1, 1), (2, 0, 5)):
        ends = []
        for step in (h, -h):
            moved = [g.detach().clone() for g in gates]
            moved[at[0]][at[1:]] += step
            ends.append(float(run(moved).detach()))
        slope = (ends[0] - ends[1]) / (2 * h)
        assert float(slopes[at[0]][at[1:]]) == pytest.approx(slope, rel=2e-2, abs=1e-6)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_kept_heads_after_a_spoiled_one_have_the_gradients_of_the_cut_model(model_type):
    model, inputs = make(model_type), batch()
    heads = spoil(model, torch.nan)
    gradients = []
    for one in (model, remove_(spoiled(model_type), heads)):
        view = HeadModel(one)
        gates = [torch.ones(3, b.n_heads, dtype=torch.float64) for b in view.blocks]
        gates = [g.requires_grad_() for g in gates]
        with masked(one, heads), view.gated(gates):
            loss = one(**inputs).loss
        gradients.append(torch.autograd.grad(loss, gates[1:]))
    kept = list(range(len(heads), HeadModel(model).blocks[1].n_heads))
    assert torch.allclose(gradients[0][0][:, kept], gradients[1][0], rtol=1e-4, atol=1e-9)
    for later, expected in zip(gradients[0][1:], gradients[1][1:], strict=True):
        assert torch.allclose(later, expected, rtol=1e-4, atol=1e-9)


def spoiled(model_type):
    model = make(model_type)
    spoil(model, torch.nan)
    return model


def test_results_of_finite_models_are_what_multiplication_gives():
    model, inputs = make("bert"), batch()
    mask = random_mask(HeadModel(model).mask, 1)
    rows = [torch.tensor([float(k) for k in row]).double() for row in mask.kept]
    with HeadModel(model).hook_heads(lambda n, z: z * rows[n][:, None]):
        expected = outputs(model, inputs)
    with masked(model, mask):
        assert torch.equal(outputs(model, inputs), expected)


def test_fits_hold_for_heads_that_are_not_finite_later():
    model, inputs = make("bert"), batch((9, 8, 7, 6, 9, 8))
    view = HeadModel(model)
    plan = PruningPlan(view.mask.drop(Head(1, 0), Head(1, 1)), repair="bias")
    fits = fit(view, plan, Scorer(view, [inputs], None, loss="kl").moments)
    with repaired(view, plan.mask, fits):
        expected = outputs(model, inputs)
    spoil(model, torch.inf)
    with repaired(view, plan.mask, fits):
        assert torch.equal(outputs(model, inputs), expected)
