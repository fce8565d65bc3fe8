"""What criteria take as batches, losses and options, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import HeadModel, score, score_all
from deadhead.errors import DataError, ScoreError, UnknownNameError, UnsupportedModelError
from deadhead.scoring.diagnose import diagnose
from models import batch, make


def embedded(model, inputs):
    """The same batch, as embeddings."""
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    return {"inputs_embeds": embeds, **{k: v for k, v in inputs.items() if k != "input_ids"}}


@pytest.mark.parametrize("side", ("left", "right"))
def test_embeddings_in_place_of_ids_give_the_same_scores(side):
    model = make("bert")
    names = ["taylor", "gradient_norm", "attention_entropy"]
    expected = score_all(model, [batch()], names)
    found = score_all(model, [embedded(model, batch(padding_side=side))], names)
    for name in names:
        np.testing.assert_allclose(
            np.stack(found[name].values), np.stack(expected[name].values), rtol=1e-9
        )


def test_a_batch_without_a_mask_is_all_real_tokens():
    inputs = batch((6, 6))
    bare = {k: v for k, v in inputs.items() if k != "attention_mask"}
    model = make("bert")
    for name in ("taylor", "attention_entropy"):
        found, expected = score(model, [bare], name), score(model, [inputs], name)
        np.testing.assert_allclose(np.stack(found.values), np.stack(expected.values), rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [("masked_lm", (3,)), ("base", (3,)), ("base", (3, 9)), ("classification", (3, 9))],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(kind, labels):
    inputs = {**batch(), "labels": torch.zeros(labels, dtype=torch.long)}
    with pytest.raises(DataError, match="the 'task' loss does not fit: labels of shape"):
        score(make("bert", kind), [inputs], "taylor")


def test_masked_language_models_are_scored_on_their_masked_tokens():
    inputs = batch()
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, 1] = 7
    scores = score(make("bert", "masked_lm"), [{**inputs, "labels": labels}], "taylor")
    assert np.concatenate(scores.values).min() > 0


def test_base_models_are_scored_by_the_norm_of_what_they_return():
    scores = score(make("bert", "base"), [batch()], "taylor", loss="logit_norm")
    assert np.isfinite(np.stack(scores.values)).all()


def test_regression_models_are_scored_by_squared_error():
    import transformers

    config = make("bert").config
    config.num_labels = 1
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    inputs = {**batch(), "labels": torch.tensor([0.5, 1.5, -1.0])}
    assert np.isfinite(np.stack(score(model, [inputs], "taylor").values)).all()


@pytest.mark.parametrize("value", ("0", "no", "yes", ""))
def test_an_option_that_cannot_be_read_is_refused(value):
    with pytest.raises(UnknownNameError, match="write true or false"):
        score(make("bert"), [batch()], f"attention_entropy:normalized={value}")


def test_samples_of_one_token_have_no_entropy():
    with pytest.raises(ScoreError, match="saw nothing to count in block 0"):
        score(make("bert"), [batch((1, 1))], "attention_entropy:normalized=true")


def test_a_compiled_model_is_refused():
    model = make("bert")
    model._orig_mod = model.base_model  # what torch.compile wraps
    with pytest.raises(UnsupportedModelError, match=r"torch\.compile has wrapped it"):
        HeadModel(model)


def test_a_model_that_something_else_has_quantized_is_refused():
    model = make("bert")
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(UnsupportedModelError, match=r"quantized \(bitsandbytes\); prune the full"):
        HeadModel(model)


def test_a_callable_object_is_a_loss():
    class Loss:
        def __call__(self, model, outputs, inputs):
            return outputs.logits.sum(1)

    assert score(make("bert"), [batch()], "taylor", loss=Loss()).provenance["loss"] == "Loss"


def test_a_healthy_model_is_told_so():
    found = diagnose(make("bert"), [batch()])
    assert found.advice == ("nothing is wrong: all finite, no zero gradient, no underflow",)
    assert len(found.rows) == 9
    assert all(r.smallest <= r.median <= r.largest for r in found.rows)


def test_a_dead_head_and_a_broken_block_are_found():
    model = make("bert")
    block = HeadModel(model).blocks[2]
    with torch.no_grad():
        block.output.weight[:, :4] = 0
    found = diagnose(model, [batch()])
    assert {(r.block, r.zero) for r in found.rows if r.zero} == {(2, 1)}
    assert any("gradients are exactly zero (blocks 2)" in line for line in found.advice)
    with torch.no_grad():
        HeadModel(model).blocks[1].value.bias[0] = torch.inf
    broken = diagnose(model, [batch()])
    assert broken.not_finite == ("batch 0, block 1: head outputs are not finite (head 1.0)",)
    assert "compute with --dtype float32" in broken.advice[0]
