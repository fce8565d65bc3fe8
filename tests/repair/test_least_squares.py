"""least_squares against refits on activations that are stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan
from deadhead.losses.losses import kl
from deadhead.models.blocks import output_rows
from deadhead.moments import BlockMoments
from deadhead.repair import apply_repaired_, fit, least_squares
from deadhead.repair.base import BlockFit
from deadhead.scoring import Scorer
from explicit import plain_moments, seen_alone
from masks import random_mask
from models import MODEL_TYPES, batch, make, outputs

LENGTHS = (9, 6, 4, 7, 5, 9, 8, 3) * 2
ALONE = "least_squares:own=0:bias=true"  # fits the calibration texts alone, and biases
PLAIN = "reconstruction:weight=none"  # whose moments weigh every token alike
WEIGHTED = "reconstruction"


def fits_of(model, mask, repair=ALONE, name=PLAIN, inputs=None):
    view = HeadModel(model)
    batches = [inputs or batch(LENGTHS)]
    moments = plain_moments(view, batches) if name == PLAIN else Scorer(view, batches, None).moments
    return fit(view, PruningPlan(mask, repair=repair), moments)


def stored(model, *, weighted):
    """Per block: what enters the output projection, and the weight of each token."""
    loss = lambda outputs, row: kl(model, outputs, row)  # noqa: E731
    for applied in seen_alone(model, batch(LENGTHS), loss):
        x, g = (np.concatenate([a[i] for a in applied]) for i in (1, 2))
        share = (g**2).sum(1) / (g**2).sum()
        yield x, share / 2 + 1 / (2 * len(x)) if weighted else np.full(len(x), 1 / len(x))


def features(mask, block):
    """Input features of the heads that stay; heads of 4."""
    return [4 * i + f for i in mask.kept_in(block) for f in range(4)]


@pytest.mark.parametrize("name", (PLAIN, WEIGHTED))
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "albert", "opt"))
def test_without_a_ridge_it_is_the_least_squares_solution(model_type, name, monkeypatch):
    monkeypatch.setattr(least_squares, "RIDGES", (1e-15,))
    model = make(model_type)
    mask = random_mask(HeadModel(model).mask, 2)
    fits = fits_of(model, mask, name=name)
    seen = list(stored(model, weighted=name == WEIGHTED))
    assert set(fits) == {h.block for h in mask.dropped}
    for number, found in fits.items():
        x, share = seen[number]
        block = HeadModel(model).blocks[number]
        weight, bias = output_rows(block.output).detach().numpy(), block.output.bias.detach()
        y = x @ weight.T + bias.numpy()
        kept = features(mask, number)
        root = np.sqrt(share)[:, None]
        ones = np.concatenate([x[:, kept], np.ones((len(x), 1))], axis=1)
        expected = np.linalg.lstsq(root * ones, root * y, rcond=None)[0].T
        np.testing.assert_allclose(found.weight[:, kept], expected[:, :-1], atol=1e-7)
        np.testing.assert_allclose(found.bias, expected[:, -1], atol=1e-7)
        gone = sorted(set(range(24)) - set(kept))
        assert not found.weight[:, gone].any()


@pytest.mark.parametrize("name", (PLAIN, WEIGHTED))
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_on_calibration_data_it_is_at_least_as_near_as_bias_and_bias_as_nothing(model_type, name):
    model = make(model_type)
    for seed in range(3):
        mask = random_mask(HeadModel(model).mask, seed)
        both = {r: fits_of(model, mask, r, name) for r in ("bias", ALONE)}
        for number, (x, share) in enumerate(stored(model, weighted=name == WEIGHTED)):
            if number not in both["bias"]:
                continue
            block = HeadModel(model).blocks[number]
            weight = output_rows(block.output).detach().numpy()
            before = 0 if block.output.bias is None else block.output.bias.detach().numpy()
            cut, kept = np.zeros_like(weight), features(mask, number)
            cut[:, kept] = weight[:, kept]
            ways = {"none": (cut, before)}
            ways |= {r: (f[number].weight.numpy(), f[number].bias.numpy()) for r, f in both.items()}
            errors = {}
            for way, (w, b) in ways.items():
                off = x @ (weight - w).T + before - b
                errors[way] = float(share @ (off**2).mean(1))
            if kept:
                assert errors[ALONE] < errors["bias"] < errors["none"]
                facts = both[ALONE][number].facts
                assert facts["error_after"] == pytest.approx(errors[ALONE], rel=1e-4)
                assert facts["error_before"] == pytest.approx(errors["bias"], rel=1e-4)
                assert facts["ridge"] in least_squares.RIDGES
            else:
                assert errors[ALONE] == pytest.approx(errors["bias"], rel=1e-9)
                assert errors["bias"] < errors["none"]


def job_of(x, weight, kept):
    """A block of heads of one feature: x (samples, width), every fourth sample held out."""
    held_out = torch.arange(len(x)) % 4 == 3
    folds = [x[~held_out], x[held_out]]
    moments = BlockMoments(
        torch.stack([f.T @ f for f in folds]),
        torch.stack([f.sum(0) for f in folds]),
        (float(len(folds[0])), float(len(folds[1]))),
    )
    kept = torch.tensor(kept)
    cut = torch.zeros_like(weight)
    cut[:, kept] = weight[:, kept]
    return BlockFit(weight, cut, torch.zeros(len(weight), dtype=torch.float64), kept, moments)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_the_others_say_exactly_is_made_up_for_exactly():
    x = normal(400, 6)
    x[:, 5] = 2 * x[:, 0] - x[:, 1] + 3
    weight = normal(4, 6, seed=1)
    found = least_squares.least_squares(job_of(x, weight, [0, 1, 2, 3, 4]), bias=True)
    assert found.facts["ridge"] == min(least_squares.RIDGES)
    off = x @ (weight - found.weight).T - found.bias
    assert off.abs().max() < 1e-2
    expected = weight[:, :5].clone()
    expected[:, 0] += 2 * weight[:, 5]
    expected[:, 1] -= weight[:, 5]
    torch.testing.assert_close(found.weight[:, :5], expected, atol=3e-3, rtol=0)


def test_noise_is_not_fitted():
    """With as few samples as features, the ridge holds on to the weights as they were."""
    x, weight = normal(24, 20), normal(4, 20, seed=1)
    kept = list(range(18))
    found = least_squares.least_squares(job_of(x, weight, kept), bias=True)
    assert found.facts["ridge"] > 0.01
    new = normal(4000, 20, seed=2)
    change = lambda w: float(((new @ (weight - w).T) ** 2).mean())  # noqa: E731
    free = least_squares._fit(job_of(x, weight, kept), torch.cov(x.T), 1e-9)
    assert change(found.weight) < 0.7 * change(free)
    assert change(found.weight) < 1.5 * change(job_of(x, weight, kept).cut)


@pytest.mark.parametrize("samples", (1, 2, 5))
def test_fewer_tokens_than_features_leave_the_fit_finite(samples):
    job = job_of(normal(samples, 20), normal(4, 20), [0, 3, 7])
    found = least_squares.least_squares(job, bias=True)
    assert torch.isfinite(found.weight).all()
    assert torch.isfinite(found.bias).all()


def test_heads_that_put_out_a_constant_leave_the_fit_finite():
    x = torch.ones(40, 6, dtype=torch.float64) * torch.arange(6.0)
    weight = normal(4, 6)
    found = least_squares.least_squares(job_of(x, weight, [0, 1, 2]), bias=True)
    torch.testing.assert_close(x @ found.weight.T + found.bias, x @ weight.T)
    torch.testing.assert_close(found.weight[:, :3], weight[:, :3])


def test_nothing_to_make_up_for_changes_nothing():
    """A head without output, or with a twin that a fold adds up, leaves no error to fit."""
    x = normal(80, 6)
    x[:, 5] = x[:, 0]
    job = job_of(x, normal(4, 6), [0, 1, 2, 3, 4])
    job.cut[:, 0] += job.dense[:, 5]
    found = least_squares.least_squares(job, bias=True)
    torch.testing.assert_close(found.weight, job.cut, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.bias, job.bias, atol=1e-12, rtol=0)


@pytest.mark.parametrize("model_type", ("bert", "gpt2", "llama"))
def test_a_repair_is_nearer_to_the_whole_model_on_other_data(model_type):
    inputs = batch((8,) * 30, seed=9)
    calibration = batch((8,) * 100, seed=3)
    off = {}
    for repair in ("none", ALONE):
        model = make(model_type)
        dense = outputs(model, inputs)
        mask = random_mask(HeadModel(model).mask, 4, share=0.3)
        fits = fits_of(model, mask, repair, inputs=calibration)
        apply_repaired_(model, PruningPlan(mask, gqa="ungroup", repair=repair), fits)
        off[repair] = float((outputs(model, inputs) - dense).pow(2).mean())
    assert off[ALONE] < off["none"]


def test_with_fewer_tokens_than_unknowns_a_larger_ridge_is_in_reach():
    x, weight = normal(8, 20), normal(4, 20, seed=1)
    kept = list(range(18))
    job = job_of(x, weight, kept)
    found = least_squares.least_squares(job, bias=True)
    assert found.facts["ridge"] in least_squares.MORE_RIDGES
    assert (found.facts["tokens"], found.facts["unknowns"]) == (8, 18)
    enough = replace(job, moments=job.moments * (18 / 8))  # the same, said to be of more tokens
    assert least_squares.least_squares(enough, bias=True).facts["ridge"] in least_squares.RIDGES
    alone = job_of(x[:1], weight, kept)  # none held out
    assert least_squares.least_squares(alone, bias=True).facts["ridge"] == max(least_squares.RIDGES)


def test_it_is_made_per_block():
    model = make("bert")
    one = HeadModel(model).mask.drop(Head(1, 2))
    assert set(fits_of(model, one)) == {1}
