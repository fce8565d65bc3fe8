"""fisher against one backward pass per sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import HeadModel, score, score_all
from deadhead.errors import DataError, ScoreError
from deadhead.losses.losses import loss_named
from explicit import each_alone
from models import DECODERS, MODEL_TYPES, batch, make


def gate_gradients(model, inputs, loss):
    """dLoss_i / dg, one sample at a time; shape (samples, heads)."""
    view, rows = HeadModel(model), []
    for row in each_alone(inputs):
        gates = [torch.ones(b.n_heads, dtype=torch.float64).requires_grad_() for b in view.blocks]
        with view.gated(gates):
            outputs = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"])
        value = loss_named(loss)(model, outputs, row)
        assert value.shape == (1,)
        rows.append(torch.cat(torch.autograd.grad(value.sum(), gates)).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("loss", ("task", "kl", "logit_norm"))
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_is_the_mean_square_of_each_samples_slope(model_type, loss):
    kinds = ("classification", "causal_lm") if model_type in DECODERS else ("classification",)
    for kind in kinds:
        model, inputs = make(model_type, kind), batch((9, 6, 4, 2))
        if kind == "causal_lm":
            del inputs["labels"]
        found = score_all(model, [inputs], ["fisher", "taylor"], loss=loss)
        slopes = gate_gradients(model, inputs, loss)
        # these take norms or softmax in float32 whatever the weights are
        near = {"rtol": 1e-4, "atol": 1e-6 * np.abs(slopes).max() ** 2}
        np.testing.assert_allclose(
            np.concatenate(found["fisher"].values), (slopes**2).mean(0), **near
        )
        np.testing.assert_allclose(
            np.concatenate(found["taylor"].values), np.abs(slopes).mean(0), rtol=1e-4, atol=1e-9
        )


def test_slopes_whose_squares_no_float32_holds_are_still_ranked():
    model = make("bert", dtype=torch.float32)
    with torch.no_grad():
        model.classifier.weight.mul_(1e-25)
        model.classifier.bias.zero_()
    first = lambda model, outputs, inputs: outputs.logits[:, 0]  # noqa: E731
    scores = np.concatenate(score(model, [batch()], "fisher", loss=first).values)
    assert not scores.astype(np.float32).any(), "a square of float32 would have underflowed"
    assert len(set(scores)) == 18


def test_a_gradient_that_is_not_finite_names_the_head():
    loss = lambda model, outputs, inputs: (  # noqa: E731 - finite, but its slope is not
        outputs.logits[:, 0] + (outputs.logits[:, 1] * 0).sqrt()
    )
    with pytest.raises(ScoreError, match=r"fisher of head 0\.0 is nan in batch 0"):
        score(make("bert"), [batch()], "fisher", loss=loss)


@pytest.mark.parametrize("name", ("taylor", "fisher"))
def test_labels_are_asked_for_or_the_loss_that_needs_none(name):
    inputs = batch()
    del inputs["labels"]
    with pytest.raises(DataError, match=r"needs labels, .* or choose the loss 'kl'") as caught:
        score(make("bert"), [inputs], name)
    assert "\n" not in str(caught.value)
    scores = score(make("bert"), [inputs], name, loss="kl")
    assert scores.provenance["loss"] == "kl"
    assert np.concatenate(scores.values).min() > 0
