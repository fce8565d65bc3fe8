"""Moments against the activations themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import HeadModel, PruningPlan, remove_
from deadhead.errors import ScoreError
from deadhead.models.observation import Observation
from deadhead.moments import MomentSums
from deadhead.scoring import Scorer
from deadhead.scoring.passes import PassSettings, observe_all
from explicit import class_loss, in_batches, plain_moments, seen_alone
from masks import random_mask
from models import MODEL_TYPES, batch, make

LENGTHS = (9, 6, 4, 7, 5, 9, 2, 3)


@pytest.fixture(autouse=True)
def stripes(monkeypatch):
    """Several stripes, the last one narrower, in matrices as small as these."""
    monkeypatch.setattr("deadhead.moments.sums.STRIPE", 5)


def activations(model, inputs):
    """Per block: what enters the output projection at real tokens, and the sample of each."""
    view = HeadModel(model)
    found = [[] for _ in view.blocks]
    valid = inputs["attention_mask"].bool()
    samples = torch.arange(len(valid))[:, None].expand(valid.shape)[valid]
    with torch.no_grad(), view.hook_heads(lambda n, z: found[n].append(z.flatten(2)[valid])):
        model(**{k: v for k, v in inputs.items() if k != "labels"})
    joined = [torch.cat(f).numpy() if f else None for f in found]
    return joined, [samples.repeat(len(f)).numpy() for f in found]


def moments_of(model, batches):
    return plain_moments(model, batches)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_mean_and_covariance_are_those_of_the_real_tokens(model_type):
    model, inputs = make(model_type), batch(LENGTHS)
    expected, samples = activations(model, inputs)
    for side in ("right", "left"):
        for size in (8, 3):
            found = moments_of(model, in_batches(batch(LENGTHS, padding_side=side), size))
            assert found.samples == 8
            assert list(found.gradient) == [None] * len(found.blocks)
            assert list(found.gradient_weighted) == list(found.blocks), "nobody asked for gradients"
            for moments, x, sample in zip(found.blocks, expected, samples, strict=True):
                assert sum(moments.tokens) == len(x)  # of ALBERT: at each application
                np.testing.assert_allclose(moments.mean, x.mean(0), atol=1e-9)
                np.testing.assert_allclose(moments.covariance, np.cov(x.T, bias=True), atol=1e-9)
                held_out = sample % 4 == 3
                for fold, part in ((0, x[~held_out]), (1, x[held_out])):
                    mean, covariance = moments.fold(fold)
                    assert moments.tokens[fold] == len(part)
                    np.testing.assert_allclose(mean, part.mean(0), atol=1e-9)
                    np.testing.assert_allclose(covariance, np.cov(part.T, bias=True), atol=1e-9)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_gradients_are_those_of_each_sample_alone(model_type):
    model, inputs = make(model_type), batch(LENGTHS)
    expected = seen_alone(model, inputs, class_loss)
    for side, size in (("right", 3), ("left", 8)):
        batches = in_batches(batch(LENGTHS, padding_side=side), size)
        found = Scorer(model, batches, "reconstruction", loss="task").moments
        for number, applied in enumerate(expected):
            x, g = (np.concatenate([a[i] for a in applied]) for i in (1, 2))
            second = g.T @ g / len(g)
            # these take norms or softmax in float32 whatever the weights are
            near = {"rtol": 0, "atol": 1e-5 * np.abs(second).max()}
            np.testing.assert_allclose(found.gradient[number], second, **near)
            share = (g**2).sum(1) / (g**2).sum()
            weight = len(x) * (share / 2 + 1 / (2 * len(x)))
            weighted = found.gradient_weighted[number]
            near = {"rtol": 1e-5, "atol": 1e-5 * np.abs(x).max() ** 2}
            np.testing.assert_allclose(weighted.mean, np.average(x, axis=0, weights=weight), **near)
            covariance = np.cov(x.T, bias=True, aweights=weight)
            np.testing.assert_allclose(weighted.covariance, covariance, **near)
            held_out = np.concatenate([np.full(len(a[1]), a[0] % 4 == 3) for a in applied])
            assert weighted.tokens[1] == pytest.approx(weight[held_out].sum(), rel=1e-5)
            np.testing.assert_allclose(
                weighted.fold(1)[1],
                np.cov(x[held_out].T, bias=True, aweights=weight[held_out]),
                **near,
            )


def test_a_loss_that_feels_nothing_leaves_every_token_alike():
    flat = lambda model, outputs, inputs: outputs.logits[:, 0] * 0  # noqa: E731
    found = Scorer(make("bert"), [batch()], "reconstruction", loss=flat).moments
    for weighted, plain in zip(found.gradient_weighted, found.blocks, strict=True):
        assert torch.equal(weighted.covariance, plain.covariance)


def tensors_in(value):
    """Every tensor that an object holds, at any depth."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)
    elif type(value).__module__.startswith("deadhead.moments"):
        yield from tensors_in(vars(value))


@pytest.mark.parametrize("gradients", (False, True))
def test_memory_does_not_grow_with_the_number_of_samples(gradients):
    sums = MomentSums(HeadModel(make("bert")), gradients=gradients)
    sizes, valid = [], torch.ones(4, 5, dtype=torch.bool)
    for number in range(5):
        for block in range(3):
            sums.observe_heads(block, torch.randn(4, 5, 6, 4), valid, number)
        if gradients:
            slopes = [torch.randn(4, 5, 24) for _ in range(3)]
            sums.observe(Observation(number, 4, valid, output_gradients=slopes))
        sizes.append(sum(t.numel() for t in tensors_in(sums)))
    assert len(set(sizes)) == 1
    assert sizes[0] < 3 * (2 + 3 * gradients) * 25**2, "two matrices a block, or five"
    assert sums.value().samples == 20


def test_padding_that_is_not_a_number_does_not_count():
    sums = MomentSums(HeadModel(make("bert")))
    z = torch.randn(2, 5, 6, 4, dtype=torch.float64)
    valid = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    z[0, 3:] = torch.nan
    sums.observe_heads(0, z, valid, 0)
    assert sums.value().blocks[0].tokens == (8, 0)
    assert torch.isfinite(sums.value().blocks[0].covariance).all()
    assert sums.value().blocks[1] is None


def test_activations_that_are_not_finite_name_the_block():
    model = make("bert")
    with torch.no_grad():
        HeadModel(model).blocks[1].value.bias[0] = torch.nan
    match = r"block 1 \(encoder\.layer\.1\) .* not finite in batch 0; .* --dtype float32"
    with pytest.raises(ScoreError, match=match) as caught:
        moments_of(model.base_model, [batch()])
    assert "\n" not in str(caught.value)


def test_gradients_that_are_not_finite_name_the_block():
    def loss(model, outputs, inputs):  # finite, but its slope is not
        return outputs.logits[:, 0] + (outputs.logits[:, 1] * 0).sqrt()

    with pytest.raises(ScoreError, match=r"gradient .* block \d .* not finite in batch 0"):
        Scorer(make("bert"), [batch()], "reconstruction", loss=loss)()


def test_moments_of_a_cut_model_are_those_of_the_heads_that_are_left():
    for model_type in ("llama", "gpt2", "albert"):
        model = make(model_type)
        remove_(model, PruningPlan(random_mask(HeadModel(model).mask, 0), gqa="ungroup"))
        expected, _ = activations(model, batch())
        found = moments_of(model, [batch()])
        assert found.blocks[0] is None, "it has lost every head"
        for moments, x in list(zip(found.blocks, expected, strict=True))[1:]:
            np.testing.assert_allclose(moments.covariance, np.cov(x.T, bias=True), atol=1e-9)


def test_half_precision_is_summed_in_double():
    model = make("bert", dtype=torch.bfloat16)
    expected, _ = activations(model.float(), batch())  # the same weights
    moments = moments_of(model.bfloat16(), [batch()])
    for found, x in zip(moments.blocks, expected, strict=True):
        assert found.second.dtype == torch.float64
        np.testing.assert_allclose(found.mean, x.mean(0), atol=0.05)


@pytest.mark.parametrize("name", ("reconstruction", "reconstruction:weight=none"))
@pytest.mark.parametrize("model_type", ("bert", "llama"))
def test_sums_in_float32_score_the_same_to_a_thousandth(model_type, name):
    model, batches = make(model_type), in_batches(batch(LENGTHS * 4), 8)
    how = PassSettings(moments_dtype=torch.float32, moments_device="cpu")
    single, double = (Scorer(model, batches, name, settings=s) for s in (how, None))
    mask = random_mask(HeadModel(model).mask, 1)
    for given in (None, mask):
        one, other = (np.stack(scorer(given).values) for scorer in (single, double))
        np.testing.assert_allclose(one, other, rtol=1e-3)
        assert not np.array_equal(one, other, equal_nan=True), "it was summed in float64"
    assert single.moments.blocks[0].second.dtype == torch.float64, "algebra is in double"


@pytest.mark.parametrize("gradients", (False, True))
def test_float32_halves_what_is_kept(gradients):
    sums = MomentSums(HeadModel(make("bert")), gradients=gradients, dtype=torch.float32)
    valid = torch.ones(4, 5, dtype=torch.bool)
    sums.observe_heads(0, torch.randn(4, 5, 6, 4, dtype=torch.float64), valid, 0)
    if gradients:
        sums.observe(Observation(0, 4, valid, output_gradients=[torch.randn(4, 5, 24)]))
    kept = [t for t in tensors_in(sums) if t.is_floating_point()]
    assert kept
    assert {t.dtype for t in kept} == {torch.float32}


def test_values_whose_squares_are_not_finite_name_the_block():
    sums = MomentSums(HeadModel(make("bert")), dtype=torch.float32)
    z = torch.full((2, 5, 6, 4), 1e25)
    with pytest.raises(ScoreError, match=r"block 2 \(bert\.encoder\.layer\.2\) .* not finite"):
        sums.observe_heads(2, z, torch.ones(2, 5, dtype=torch.bool), 0)


@pytest.mark.parametrize("level", (0.0, 1e-150, 3.0, 1e6))
def test_a_block_that_is_the_same_everywhere_is_constant_and_no_other_is(level):
    sums = MomentSums(HeadModel(make("bert")))
    z = torch.full((4, 5, 6, 4), level, dtype=torch.float64) * torch.arange(1, 5)
    valid = torch.ones(4, 5, dtype=torch.bool)
    sums.observe_heads(0, z, valid, 0)
    z = z.clone()
    z[1, 2, 3] *= 1.01
    sums.observe_heads(1, z, valid, 0)
    constant, varies, _ = sums.value().blocks
    assert constant.constant
    assert varies.constant == (level == 0)


def test_one_sample_leaves_nothing_held_out():
    (moments, *_) = moments_of(make("bert"), [batch((5,))]).blocks
    assert moments.tokens == (5, 0)
    assert torch.isfinite(moments.covariance).all()


def test_moments_come_with_the_dense_pass_or_in_one_of_their_own():
    seen = []
    model = make("bert")
    tick = lambda: seen.append(1)  # noqa: E731
    scorer = Scorer(
        model,
        [batch(), batch(seed=2)],
        "taylor",
        loss="kl",
        moments=True,
        settings=PassSettings(on_batch=tick),
    )
    scorer()
    shared = scorer.moments
    assert len(seen) == 2
    own = Scorer(model, [batch(), batch(seed=2)], "taylor", settings=PassSettings(on_batch=tick))
    own()  # by the task's loss; repairs are weighted by kl
    for kind in ("blocks", "gradient_weighted"):
        for one, other in zip(getattr(own.moments, kind), getattr(shared, kind), strict=True):
            assert torch.equal(one.second, other.second)
    assert len(seen) == 6
    assert own.moments is own.moments
    assert len(seen) == 6


def test_a_pass_without_criteria_or_moments_looks_at_nothing():
    assert observe_all(HeadModel(make("bert")), None, []).samples == 0
