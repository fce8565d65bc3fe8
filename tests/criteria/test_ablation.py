"""Trials of many heads in one pass are what one head at a time gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, masked, score, score_all
from deadhead.data.batches import call
from deadhead.errors import DataError, ScoreError, UnknownNameError
from masks import random_mask
from models import DECODERS, MODEL_TYPES, batch, make
from one_by_one import DATA, assert_exact, one_at_a_time, singles


@pytest.mark.parametrize("kind", ("classification", "lm"))
@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.slow
def test_it_is_what_one_head_at_a_time_gives(model_type, kind):
    causal = model_type in DECODERS
    model = make(model_type, {"lm": "causal_lm" if causal else "masked_lm"}.get(kind, kind))
    data = DATA
    if kind == "lm":
        data = [{**b, "labels": b["input_ids"].masked_fill(b["input_ids"] < 9, -100)} for b in data]
    if model_type in ("bloom", "qwen3"):  # softmax or norms in float32: padding rounds them anew
        data = list(singles(data))
    assert_exact(model, data)
    assert_exact(model, data, random_mask(HeadModel(model).mask, 3, share=0.4))


def test_heads_that_a_mask_drops_have_no_score():
    model = make("bert")
    mask = random_mask(HeadModel(model).mask, 1)
    found = score(model, DATA, "ablation", mask=mask)
    assert {h for h in HeadModel(model).mask.heads if np.isnan(found[h])} == set(mask.dropped)


def test_divergence_needs_no_labels_and_is_that_from_the_model_as_it_is():
    model, inputs = make("bert"), batch()
    view, mask = HeadModel(model), random_mask(HeadModel(model).mask, 4, share=0.3)
    dense = call(model, inputs).logits.log_softmax(-1)
    bare = {k: v for k, v in inputs.items() if k != "labels"}

    def divergence(kept):
        with masked(view, kept):
            now = call(model, inputs).logits.log_softmax(-1)
        return float((dense.exp() * (dense - now)).sum(-1).mean())

    with torch.no_grad():
        expected = {h: divergence(mask.drop(h)) - divergence(mask) for h in mask.heads}
    found = score(model, [bare], "ablation", loss="kl", mask=mask)
    assert max(abs(found[h] - value) for h, value in expected.items()) <= 1e-12
    assert found.provenance["loss"] == "kl"
    plain = score(model, [bare], "ablation", loss="kl")
    assert np.concatenate(plain.values).min() > 0


@pytest.mark.parametrize("kind", ("causal_lm", "base"))
def test_divergence_is_a_mean_over_real_tokens(kind):
    model, inputs = make("opt", kind), batch((6, 4))
    view, head = HeadModel(model), Head(1, 3)

    def by_token(kept):
        with torch.no_grad(), masked(view, kept):
            out = call(model, inputs)
        return out.logits.log_softmax(-1) if kind == "causal_lm" else out[0]

    a, b = by_token(view.mask), by_token(view.mask.drop(head))
    terms = (a.exp() * (a - b)).sum(-1) if kind == "causal_lm" else ((a - b) ** 2).sum(-1) / 2
    expected = (terms[0].mean() + terms[1, :4].mean()) / 2
    found = score(model, [inputs], "ablation", loss="kl")
    assert found[head] == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_dead_head_costs_nothing(model_type):
    model = make(model_type)
    view = HeadModel(model)
    number, group = len(view.blocks) - 1, view.blocks[-1].shape.group_size
    dead = [Head(number, i) for i in range(group, 2 * group)]
    with torch.no_grad():
        for part in ("value", "value_bias"):
            if part in view.head_weights(dead[0]):
                view.head_weights(dead[0])[part].zero_()
    found = score(model, [batch()], "ablation", loss="kl")
    assert max(abs(found[h]) for h in dead) <= 1e-12
    assert found.ranking()[:group] == sorted(dead, key=lambda h: (found[h], h))


def test_progress_is_told_once_for_each_batch():
    calls = []
    batches = [batch((3,)), batch((9, 4)), batch((4, 4, 9))]
    score_all(make("bert"), batches, ["ablation"], on_batch=lambda: calls.append(1))
    assert len(calls) == 3


def test_batches_may_come_from_a_generator_that_others_look_at_too():
    together = score_all(make("bert"), iter(DATA), ["taylor", "ablation"])
    assert together["ablation"] == score(make("bert"), DATA, "ablation")
    assert together["taylor"].provenance["samples"] == 7


def test_a_batch_without_a_mask_and_one_of_embeddings_are_scored():
    model, inputs = make("bert"), batch((6, 6))
    expected = score(model, [inputs], "ablation")
    bare = {k: v for k, v in inputs.items() if k != "attention_mask"}
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    embedded = {**bare, "inputs_embeds": embeds}
    del embedded["input_ids"]
    for data in (bare, embedded):
        found = score(model, [data], "ablation")
        np.testing.assert_allclose(np.stack(found.values), np.stack(expected.values), atol=1e-12)


def test_a_loss_of_ones_own():
    def margin(model, outputs, inputs):
        return outputs.logits[:, 0] - outputs.logits[:, 1]

    found = score(make("bert"), DATA, "ablation", loss=margin)
    expected = one_at_a_time(make("bert"), DATA, loss=margin)
    assert max(abs(found[h] - value) for h, value in expected.items()) <= 1e-9
    assert found.provenance["loss"] == "margin"


def test_a_loss_that_says_nothing_about_a_model_is_refused_at_once():
    with pytest.raises(ScoreError, match=r"'logit_norm' does not say .*; choose 'kl', which"):
        score(make("bert"), None, "ablation", loss="logit_norm")


def test_labels_that_are_missing_name_the_loss_that_needs_none():
    bare = {k: v for k, v in batch().items() if k != "labels"}
    with pytest.raises(DataError, match="choose the loss 'kl', which needs none"):
        score(make("bert"), [bare], "ablation")


def test_a_loss_of_the_wrong_shape_is_refused():
    with pytest.raises(ScoreError, match=r"returned \[\], .* one number per sample, \[3\]"):
        score(make("bert"), [batch((6, 6, 6))], "ablation", loss=lambda m, o, b: o.logits.mean())


def test_a_loss_that_is_not_finite_names_batch_and_head():
    model = make("bert")
    with torch.no_grad():
        HeadModel(model).head_weights(Head(1, 4))["value_bias"][0] = torch.inf
    with pytest.raises(ScoreError, match=r"batch 1 is not finite: block 1.*\(head 1\.4\); look"):
        score(model, [batch((4,)), batch((9,))], "ablation")

    def fragile(model, outputs, inputs):
        return (outputs.logits[:, 0] > bound).double().log()

    model = make("bert")
    heads = one_at_a_time(model, [batch((4,))], loss=lambda m, o, b: o.logits[:, 0])
    whole = float(call(model, batch((4,))).logits[0, 0].detach())
    lowest = min(heads, key=heads.__getitem__)
    bound = whole + heads[lowest] * 0.999
    with pytest.raises(ScoreError, match=f"batch 0 is -inf without head {lowest}; look"):
        score(model, [batch((4,))], "ablation", loss=fragile)


def test_no_data_and_options_are_refused():
    for data, message in ((None, "there are no calibration samples"), ([], "the data are empty")):
        with pytest.raises(DataError, match=message):
            score(make("bert"), data, "ablation")
    with pytest.raises(UnknownNameError, match="has no options"):
        score(make("bert"), DATA, "ablation:x=1")
