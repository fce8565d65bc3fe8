"""gradient_norm against the gradients that autograd makes, one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, remove_, score, score_all
from deadhead.criteria.gradient_norm import weight_gradient_norms
from deadhead.errors import DataError, ScoreError, UnknownNameError
from deadhead.models.observation import Projected
from models import MODEL_TYPES, batch, make


def brute_force(model, inputs, *, summed):
    """Products of mean gradient norms from full backward passes."""
    view = HeadModel(model)
    rows = [inputs] if summed else [{k: v[i : i + 1] for k, v in inputs.items()} for i in range(3)]
    norms = {p: [] for p in ("query", "key", "value")}
    for row in rows:
        model.zero_grad()
        logits = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"]).logits
        logits.norm().backward()
        gradients = {}
        for name, parameter in model.named_parameters():
            gradients[name] = parameter.grad.clone()
        for part, found in norms.items():
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.data, parameter.grad.data = parameter.grad.data, parameter.data
                found.append(
                    [
                        [float(view.head_weights(Head(b, i))[part].norm()) for i in range(6)]
                        for b in range(len(view.blocks))
                    ]
                )
                for parameter in model.parameters():
                    parameter.data, parameter.grad.data = parameter.grad.data, parameter.data
    return sum(np.log(np.mean(np.array(found), axis=0)) for found in norms.values())


@pytest.mark.parametrize("reduction", ("sample", "batch"))
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_equals_the_gradients_of_full_backward_passes(model_type, reduction):
    model, inputs = make(model_type), batch((6, 6, 4))
    expected = brute_force(model, inputs, summed=reduction == "batch")
    found = score(model, [inputs], f"gradient_norm:reduction={reduction}", loss="logit_norm")
    np.testing.assert_allclose(np.stack(found.values), expected, atol=1e-5)


def test_both_ways_to_the_norm_agree():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    d = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    short = weight_gradient_norms(Projected(x, d, d, d))["query"]
    again = torch.cat([x] * 3, dim=1), torch.cat([d / 3] * 3, dim=1)  # 15 tokens > 8 features
    long = weight_gradient_norms(Projected(again[0], again[1], again[1], again[1]))["query"]
    torch.testing.assert_close(short, long)


def test_scores_far_below_the_smallest_float_are_still_ranked():
    model = make("bert", dtype=torch.float32)
    with torch.no_grad():
        model.classifier.weight.mul_(1e-16)
        model.classifier.bias.zero_()
    scores = score(model, [batch()], "gradient_norm")
    products = np.exp(np.concatenate(scores.values).astype(np.float32))
    assert not products.any(), "the product itself would have underflowed"
    assert np.isfinite(np.concatenate(scores.values)).all()
    assert len(set(np.concatenate(scores.values))) == 18


def test_the_published_reduction_depends_on_the_batch_size_and_ours_does_not():
    model, inputs = make("bert"), batch((6, 6, 6))
    singles = [{k: v[i : i + 1] for k, v in inputs.items()} for i in range(3)]
    for reduction, same in (("sample", True), ("batch", False)):
        name = f"gradient_norm:reduction={reduction}"
        whole, parts = score(model, [inputs], name), score(model, singles, name)
        close = np.allclose(np.stack(whole.values), np.stack(parts.values), rtol=1e-6)
        assert close == same


def test_gradient_criteria_share_one_backward_pass(monkeypatch):
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or grad(*a, **k))
    found = score_all(make("bert"), [batch(), batch(seed=2)], ["taylor", "gradient_norm"])
    assert len(calls) == 2, "one backward pass per batch"
    assert {s.provenance["loss"] for s in found.values()} == {"task"}


def test_alone_it_needs_no_labels():
    inputs = batch()
    del inputs["labels"]
    scores = score(make("bert"), [inputs], "gradient_norm")
    assert scores.provenance["loss"] == "logit_norm"
    with pytest.raises(DataError, match="choose the loss 'kl', which needs none"):
        score(make("bert"), [inputs], "taylor")


def test_a_causal_model_is_scored_on_its_own_tokens():
    inputs = batch()
    del inputs["labels"]
    scores = score(make("opt", "causal_lm"), [inputs], "taylor")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    again = score(make("opt", "causal_lm"), [{**inputs, "labels": labels}], "taylor")
    assert scores == again


def test_a_loss_of_ones_own():
    def margin(model, outputs, inputs):
        return outputs.logits[:, 0] - outputs.logits[:, 1]

    scores = score(make("bert"), [batch()], "taylor", loss=margin)
    assert scores.provenance["loss"] == "margin"
    assert np.concatenate(scores.values).min() > 0


def test_a_loss_that_is_not_finite_names_the_batch_and_where_it_began():
    model = make("bert")

    def message(**options):
        with pytest.raises(ScoreError, match="the loss of batch 0 is not finite: ") as caught:
            score(model, [batch()], "gradient_norm", **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "the logits are finite, the loss" in message(loss=lambda m, o, b: o.logits[:, 0] / 0)
    with torch.no_grad():
        model.classifier.bias[0] = torch.inf
    assert "after the last block: logits are not finite; look" in message()
    remove_(model, PruningPlan(HeadModel(model).mask.drop(Head(1, 2))))
    with torch.no_grad():
        HeadModel(model).head_weights(Head(1, 4))["value_bias"][0] = torch.inf
    assert "block 1: head outputs are not finite (head 1.4); look" in message()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.fill_(torch.nan)
    assert "block 0: head outputs are not finite (all of them); look" in message()


def test_inference_mode_is_refused_only_where_gradients_are_wanted():
    model = make("bert")
    with torch.inference_mode():
        with pytest.raises(
            ScoreError, match=r"inference_mode\(\) lets no gradient .* outside of it"
        ):
            score(model, [batch()], "taylor")
        assert score(model, [batch()], "attention_entropy").counts == (6, 6, 6)


def test_not_finite_entropies_name_the_head():
    model = make("bert", backend="eager")
    with torch.no_grad():
        HeadModel(model).head_weights(Head(1, 4))["query"].fill_(torch.nan)
    with pytest.raises(ScoreError, match=r"attention_entropy of head 1\.4 is nan in batch 0"):
        score(model, [batch()], "attention_entropy")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tailor", "did you mean 'taylor'"),
        ("taylor:x=1", "has no options"),
        ("gradient_norm:reducton=batch", "did you mean 'reduction'"),
        ("gradient_norm:reduction=mean", "known: batch, sample"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(spec, message):
    with pytest.raises(UnknownNameError, match=message):
        score(make("bert"), [batch()], spec)


def test_no_data_is_refused():
    with pytest.raises(DataError, match="the data are empty"):
        score(make("bert"), [], "gradient_norm")


def test_a_label_that_the_model_does_not_have_is_refused():
    for wrong in (7, -100):
        inputs = {**batch(), "labels": torch.tensor([0, wrong, 2])}
        with pytest.raises(DataError, match=f"label {wrong} is not among the model's 3 classes"):
            score(make("bert"), [inputs], "taylor")
