"""reconstruction against a refit for every head, on activations that are stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, remove_, score
from deadhead.errors import BudgetError, DataError, ScoreError, UnknownNameError
from deadhead.losses.losses import kl
from deadhead.repair import fit, repaired
from deadhead.scoring import Scorer, ScorerGroup
from deadhead.scoring.passes import PassSettings
from deadhead.scoring.spec import make_criterion
from explicit import each_alone, in_batches, refit_error, seen_alone
from masks import random_mask
from models import BACKENDS, MODEL_TYPES, batch, make, outputs

LENGTHS = (9, 6, 4, 7, 5, 9, 2, 3) * 3
RIDGES = ("0", "-1", "nan", "inf", "1e-300")
NAMES = ("reconstruction", "reconstruction:weight=none")


def brute_force(model, inputs, *, weighted, ridge=0.01):
    """A function of the heads that go from one block, and its covariance of stored activations."""
    view = HeadModel(model)
    seen = seen_alone(model, inputs, lambda outputs, row: kl(model, outputs, row))
    errors = []
    for block, applied in zip(view.blocks, seen, strict=True):
        if not applied:  # it has lost every head
            errors.append(None)
            continue
        x, g = (np.concatenate([a[i] for a in applied]) for i in (1, 2))
        share = (g**2).sum(1) / (g**2).sum()
        covariance = np.cov(x.T, bias=True, aweights=share + 1 / len(x) if weighted else None)
        covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        heads = [view.head_weights(Head(len(errors), i))["output"] for i in block.original.heads]
        weight = torch.cat(heads, dim=1).detach().numpy()
        metric = g.T @ g / len(g) if weighted else None
        errors.append((covariance, weight, metric, block.head_dim))
    return lambda block, gone: refit_error(*errors[block], gone)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_is_what_a_refit_leaves_also_after_several_heads(model_type, name):
    model, inputs = make(model_type), batch(LENGTHS)
    scorer = Scorer(model, [inputs], name)
    left_by = brute_force(model, inputs, weighted="none" not in name)
    # gradients through norms or a softmax in float32 are not those of float64
    near = 1e-8 if "none" in name or model_type in ("bert", "gpt2", "opt") else 1e-4
    mask = HeadModel(model).mask
    for gone in ((), (Head(0, 2), Head(1, 0)), (Head(0, 5), Head(0, 1), Head(1, 3), Head(1, 4))):
        mask = mask.drop(*gone)
        found = scorer(mask)
        for head in mask.heads:
            before = [h.index for h in mask.dropped if h.block == head.block]
            expected = left_by(head.block, [*before, head.index]) - left_by(head.block, before)
            assert found[head] == pytest.approx(expected, rel=near), (gone, head)
        assert {h for h in mask.dropped if not np.isnan(found[h])} == set()
        blocks = range(len(mask.counts))
        whole = sum(left_by(b, [h.index for h in mask.dropped if h.block == b]) for b in blocks)
        assert scorer.error(mask) == pytest.approx(whole, rel=near)


def test_gains_are_what_a_head_that_comes_back_saves():
    model, inputs = make("llama"), batch(LENGTHS)
    scorer = Scorer(model, [inputs], "reconstruction")
    mask = random_mask(HeadModel(model).mask, 0)
    gains, whole = scorer.gains(mask), scorer.error(mask)
    assert {h for h in mask.heads if not np.isnan(gains[h])} == set()
    for head in mask.dropped:
        without = HeadModel(model).mask.drop(*(h for h in mask.dropped if h != head))
        assert gains[head] == pytest.approx(whole - scorer.error(without), rel=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_a_mask_do_not_depend_on_what_was_scored_before(name):
    model, inputs = make("bert"), batch(LENGTHS)
    whole = HeadModel(model).mask
    masks = [random_mask(whole, seed, share=0.2 * seed) for seed in (1, 2, 3)]
    masks += [masks[0] & masks[1], whole, masks[2]]  # heads go, and come back
    scorer = Scorer(model, [inputs], name)
    for mask in masks:
        found = scorer(mask)
        fresh = Scorer(model, [inputs], name)(mask)
        for a, b in zip(found.values, fresh.values, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_batches_padding_and_backend_do_not_matter(backend):
    for model_type in ("bert", "gpt2", "opt"):
        model, inputs = make(model_type, backend=backend), batch(LENGTHS)
        expected = score(model, [inputs], "reconstruction")
        other = score(make(model_type), [inputs], "reconstruction")
        np.testing.assert_allclose(np.stack(other.values), np.stack(expected.values), rtol=1e-9)
        ways = [each_alone(inputs), [batch(LENGTHS, padding_side="left")], in_batches(inputs, 5)]
        for batches in ways:
            found = score(model, batches, "reconstruction")
            np.testing.assert_allclose(np.stack(found.values), np.stack(expected.values), rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "gpt_neox"))
def test_of_two_heads_that_are_the_same_either_is_cheap_but_not_both(model_type, name):
    model = make(model_type)
    view = HeadModel(model)
    one, two = Head(1, 1), Head(1, 4)
    with torch.no_grad():
        for part, slice_ in view.head_weights(two).items():
            if not part.startswith("output"):
                slice_.copy_(view.head_weights(one)[part])
    scorer = Scorer(model, [batch(LENGTHS)], name)
    scores = scorer()
    ranking = [h for h in scores.ranking() if h.block == 1]
    assert set(ranking[:2]) == {one, two}
    after = scorer(view.mask.drop(one))
    assert after[two] > 8 * scores[two]
    assert after[two] > 0.5 * np.median([after[h] for h in ranking[2:]])
    both = scorer.error(view.mask.drop(one, two))
    assert scores[one] + after[two] == pytest.approx(both, rel=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_that_puts_out_a_constant_costs_its_ridge_alone(name):
    model = make("bert")
    view, dead = HeadModel(model), Head(2, 3)
    with torch.no_grad():
        view.head_weights(dead)["value"].zero_()  # the output bias makes up for what is left
    scorer = Scorer(model, [batch(LENGTHS)], name)
    scores = scorer()
    assert scores.ranking()[0] == dead
    weighted = "none" not in name
    moments = (scorer.moments.gradient_weighted if weighted else scorer.moments.blocks)[2]
    weight = view.head_weights(dead)["output"].detach()
    squared = weight.T @ (scorer.moments.gradient[2] @ weight if weighted else weight)
    ridge = 0.01 * moments.covariance.diagonal().mean()
    assert scores[dead] == pytest.approx(float(ridge * squared.trace()), rel=1e-6)


def test_a_metric_makes_heads_cheap_that_the_loss_does_not_feel():
    model = make("bert")
    with torch.no_grad():
        model.classifier.weight.mul_(1e-3)
    plain, weighted = (
        [score(m, [batch(LENGTHS)], n) for m in (make("bert"), model)] for n in NAMES
    )
    plain, weighted = weighted, plain
    np.testing.assert_allclose(np.stack(plain[0].values), np.stack(plain[1].values), rtol=1e-9)
    assert max(weighted[1].values[0]) < 1e-3 * min(weighted[0].values[0])


def test_it_works_on_a_cut_model_in_original_indices():
    model, inputs = make("llama"), batch(LENGTHS)
    mask = random_mask(HeadModel(model).mask, 0)
    remove_(model, PruningPlan(mask, gqa="ungroup"))
    view = HeadModel(model)
    scorer = Scorer(view, [inputs], "reconstruction:weight=none")
    left_by = brute_force(model, inputs, weighted=False)
    smaller = mask.drop(mask.heads[0])
    for now in (mask, smaller):
        scores = scorer(now)
        assert {h for h in now.dropped if not np.isnan(scores[h])} == set()
        for head in now.heads:
            block = view.blocks[head.block]
            gone = [block.position(h.index) for h in mask.heads if h.block == head.block]
            gone = [p for p in gone if block.original.heads[p] not in now.kept_in(head.block)]
            expected = left_by(head.block, [*gone, block.position(head.index)])
            expected -= left_by(head.block, gone)
            assert scores[head] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("weight=gradients", UnknownNameError, "known: gradient, none"),
        *[(f"ridge={r}", BudgetError, f"ridge is {float(r)}; give a") for r in RIDGES],
        ("ridges=.1", UnknownNameError, "did you mean 'ridge'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, error, message):
    with pytest.raises(error, match=message) as caught:
        make_criterion(f"reconstruction:{options}", HeadModel(make("bert")))
    assert "\n" not in str(caught.value)


def test_data_that_says_nothing_is_refused():
    with pytest.raises(DataError, match="the data are empty"):
        score(make("bert"), [], "reconstruction")
    for name in NAMES:
        with pytest.raises(ScoreError, match="every block give the same output for every token"):
            score(make("bert"), [batch((1,))], name)


def constant_block(number, model_type="bert"):
    """A model one of whose blocks puts out its value bias at every token."""
    model = make(model_type)
    view = HeadModel(model)
    with torch.no_grad():
        for head in view.mask.heads:
            if head.block == number:
                view.head_weights(head)["value"].zero_()
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "llama"))
def test_a_block_that_says_nothing_scores_nothing_and_the_rest_goes_on(model_type, name):
    model = constant_block(1, model_type)
    scorer = Scorer(model, [batch(LENGTHS)], name)
    whole = HeadModel(model).mask
    some = whole.drop(Head(0, 1), Head(1, 0), Head(1, 3))
    for mask in (whole, some):
        scores = scorer(mask)
        assert {scores[h] for h in mask.heads if h.block == 1} == {0.0}
        assert min(scores[h] for h in mask.heads if h.block != 1) > 0
    gone = whole.drop(*(h for h in whole.heads if h.block == 1))
    assert scorer.error(gone) == 0
    assert scorer.gains(gone)[Head(1, 2)] == 0
    assert scorer.group_errors(whole, [(Head(1, 2), Head(1, 4))]) == [0]
    with repaired(HeadModel(model), gone, fits_of(scorer, gone)):
        changed = outputs(model, batch())
    assert (changed - outputs(model, batch())).abs().max() < 1e-9, "a bias says it all"


def fits_of(scorer, mask):
    return fit(scorer.view, PruningPlan(mask, repair="bias"), scorer.moments)


def test_a_block_that_says_nothing_is_told_or_refused():
    scorers = ScorerGroup(constant_block(2), [batch(LENGTHS)], ["reconstruction", "magnitude"])
    (note,) = scorers.of("reconstruction").notes
    assert "heads of block 2 give the same output for every calibration token and score 0" in note
    assert scorers.of("reconstruction")().provenance["notes"] == [note]
    assert "notes" not in scorers.of("magnitude")().provenance
    assert scorers.of("magnitude").notes == []
    strict = Scorer(
        constant_block(2), [batch(LENGTHS)], "reconstruction", settings=PassSettings(strict=True)
    )
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"block 2 give the same output .* without strict$"
        ) as error:
            strict()
        assert "\n" not in str(error.value)
    healthy = Scorer(
        make("bert"), [batch(LENGTHS)], "reconstruction", settings=PassSettings(strict=True)
    )
    assert "notes" not in healthy().provenance
    assert healthy.notes == []


def test_a_covariance_that_cannot_be_inverted_names_the_block(monkeypatch):
    inv, scorer = torch.linalg.inv, Scorer(make("bert"), [batch(LENGTHS)], NAMES[0])
    calls = []

    def singular(matrix):
        calls.append(matrix)
        if len(calls) == 2:
            raise torch.linalg.LinAlgError("the diagonal element 1 is zero")
        return inv(matrix)

    monkeypatch.setattr(torch.linalg, "inv", singular)
    match = r"of block 1 \(bert\.encoder\.layer\.1\): the covariance is singular; give a larger"
    with pytest.raises(ScoreError, match=match) as caught:
        scorer()
    assert "\n" not in str(caught.value)
