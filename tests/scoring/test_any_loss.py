"""Masked language models and minimal pairs: scored by their own loss, or by one without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import HeadModel, open_task, score, score_all
from deadhead.checkpoints import load_model
from deadhead.errors import DataError, ScoreError
from deadhead.losses.losses import task
from deadhead.repair import fit
from deadhead.scoring import Scorer
from deadhead.types import PruningPlan
from explicit import each_alone, in_batches
from models import batch, make

LENGTHS = (9, 6, 4, 7, 5, 9, 2, 8)
NAMES = ["taylor", "gradient_norm", "fisher", "reconstruction", "reconstruction:weight=none"]


def masked_tokens(*, padding_side="right"):
    """A batch whose labels are a few tokens of each sample, and of one sample none."""
    inputs = batch(LENGTHS, padding_side=padding_side)
    labels = torch.full_like(inputs["input_ids"], -100)
    for row, n in enumerate(LENGTHS[:-1]):
        first = 0 if padding_side == "right" else max(LENGTHS) - n
        for at in {first, first + n - 1, first + n // 2}:
            labels[row, at] = 3 + (row + at - first) % 30
    return {**inputs, "labels": labels}


def stacked(found):
    return {name: np.stack(scores.values) for name, scores in found.items()}


def test_the_task_loss_of_a_masked_model_is_the_mean_over_its_masked_tokens():
    model, inputs = make("bert", "masked_lm"), masked_tokens()
    with torch.no_grad():
        outputs = model(inputs["input_ids"], inputs["attention_mask"])
        found = task(model, outputs, inputs)
        for row in range(len(LENGTHS) - 1):
            one = {k: v[row : row + 1] for k, v in inputs.items()}
            assert float(found[row]) == pytest.approx(float(model(**one).loss), rel=1e-9)
    assert found[-1] == 0, "nothing is masked"


@pytest.mark.parametrize("loss", ["task", "kl"])
@pytest.mark.parametrize("model_type", ["bert", "albert"])
def test_masked_models_score_the_same_in_any_batches_and_padding(model_type, loss):
    model = make(model_type, "masked_lm")
    inputs = masked_tokens()
    expected = stacked(score_all(model, [inputs], NAMES, loss=loss))
    assert all(np.isfinite(values).all() for values in expected.values())
    ways = [in_batches(inputs, 3), each_alone(inputs), [masked_tokens(padding_side="left")]]
    # albert takes its norms in float32
    near = {"rtol": 1e-7 if model_type == "bert" else 1e-4}
    for batches in ways:
        found = stacked(score_all(model, batches, NAMES, loss=loss))
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, **near, err_msg=name)


def test_what_is_masked_matters_to_the_task_loss_and_not_to_the_label_free_one():
    model, inputs = make("bert", "masked_lm"), masked_tokens()
    other = {**inputs, "labels": torch.where(inputs["labels"] < 0, -100, 5)}
    bare = {k: v for k, v in inputs.items() if k != "labels"}
    for name in ("gradient_norm", "reconstruction"):
        one, two = (np.stack(score(model, [b], name, loss="task").values) for b in (inputs, other))
        assert np.abs(one / two - 1).max() > 1e-3
        one, two = (np.stack(score(model, [b], name, loss="kl").values) for b in (inputs, bare))
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kind", ["masked_lm", "classification"])
@pytest.mark.parametrize("name", ["taylor", "fisher", "ablation", "shapley", "reconstruction"])
def test_where_labels_lack_the_loss_that_needs_none_is_named(kind, name):
    bare = {k: v for k, v in batch().items() if k != "labels"}
    with pytest.raises(DataError, match=r"have none; .* choose the loss 'kl'") as caught:
        score(make("bert", kind), [bare], name, loss="task")
    assert "\n" not in str(caught.value)
    assert np.isfinite(np.stack(score(make("bert", kind), [bare], name, loss="kl").values)).all()


@pytest.mark.parametrize("name", ["taylor", "reconstruction", "output_norm", "gradient_norm"])
def test_activations_that_are_not_numbers_name_the_block(name):
    model = make("bert", "masked_lm")
    with torch.no_grad():
        HeadModel(model).blocks[1].value.bias[0] = torch.nan
    with pytest.raises(ScoreError, match=r"block 1|head 1\.0") as caught:
        score(model, [masked_tokens()], name)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def pairs():
    """The bundled decoder, and a maker of its minimal-pairs task."""
    loaded = load_model("bundled:decoder")

    def opened(**options):
        how = {"config": loaded.model.config, "calibration_size": 24, "test_size": 8}
        return open_task("bundled:agreement", loaded.tokenizer, **how, **options).calibration

    return loaded.model, opened


@pytest.mark.parametrize("loss", ["task", "kl"])
def test_minimal_pairs_score_the_same_in_any_batches(pairs, loss):
    model, opened = pairs
    names = ["taylor", "fisher", "reconstruction"]
    expected = stacked(score_all(model, opened().batches(), names, loss=loss))
    found = stacked(score_all(model, opened(batch_size=5).batches(), names, loss=loss))
    for name, values in expected.items():
        assert np.isfinite(values).all()
        # the model is of float32
        np.testing.assert_allclose(found[name], values, rtol=2e-3, atol=1e-3 * values.max())


def test_minimal_pairs_are_repaired_by_either_loss(pairs):
    model, opened = pairs
    view = HeadModel(model)
    mask = view.mask.drop(view.mask.heads[0], view.mask.heads[5])
    plan = PruningPlan(mask, repair="least_squares")
    errors = {}
    for loss in ("task", "kl"):
        moments = Scorer(view, opened().batches(), None, loss=loss).moments
        fits = fit(view, plan, moments)
        assert all(f.facts["error_after"] < f.facts["error_before"] for f in fits.values())
        errors[loss] = [f.facts["error_after"] for f in fits.values()]
    assert errors["task"] != errors["kl"], "tokens weigh by the loss"
