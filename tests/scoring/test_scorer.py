"""Criteria share their passes, and say in one line what is wrong with a loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import HeadModel, score, score_all
from deadhead.criteria import CRITERIA
from deadhead.errors import DataError, DeadheadError, ScoreError
from deadhead.scoring import Scorer, ScorerGroup
from deadhead.scoring.passes import PassSettings
from deadhead.scoring.scorer import SharedPass
from deadhead.scoring.spec import CriterionSpec
from masks import random_mask
from models import batch, make

ONE_PASS = [n for n, kind in CRITERIA.items() if n != "file" and "trials" not in kind.needs]
LASTING = ["reconstruction", "reconstruction:weight=none"]


def counting(model):
    """Count the forward passes of a model."""
    calls = []
    model.register_forward_hook(lambda *args: calls.append(1))
    return calls


@pytest.mark.parametrize("model_type", ("bert", "albert", "llama"))
def test_all_together_cost_one_forward_and_one_backward_pass_per_batch(model_type, monkeypatch):
    assert len(ONE_PASS) >= 9
    backward, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backward.append(1) or grad(*a, **k))
    model, ticks = make(model_type), []
    forward = counting(model)
    names = [*ONE_PASS, "reconstruction:weight=none", "taylor+output_norm"]
    batches = [batch(), batch(seed=2)]
    found = score_all(model, batches, names, on_batch=lambda: ticks.append(1))
    assert list(found) == names
    assert (len(forward), len(backward), len(ticks)) == (2, 2, 2)


@pytest.mark.parametrize("names", ([LASTING[0]], LASTING, ["magnitude", *LASTING]))
def test_criteria_that_last_look_at_the_data_once_whatever_the_number_of_masks(names):
    model, ticks = make("bert"), []
    whole = HeadModel(model).mask
    scorers = ScorerGroup(
        model,
        [batch(), batch(seed=2)],
        names,
        moments=True,
        settings=PassSettings(on_batch=lambda: ticks.append(1)),
    )
    assert ticks == []
    for mask in (None, whole, *(random_mask(whole, seed) for seed in range(4))):
        for scorer in map(scorers.of, names):
            scorer(mask)
            scorer.error(mask or whole)
            scorer.gains(mask or whole)
    _ = scorers.moments
    assert len(ticks) == 2


def test_criteria_that_do_not_last_look_again_for_every_mask():
    model, ticks = make("bert"), []
    whole = HeadModel(model).mask
    scorer = Scorer(
        model, [batch()], "taylor", settings=PassSettings(on_batch=lambda: ticks.append(1))
    )
    for mask in (whole, random_mask(whole, 1), random_mask(whole, 2), None):
        found = scorer(mask)
        alone = score(model, [batch()], "taylor", mask=mask)
        np.testing.assert_array_equal(np.stack(found.values), np.stack(alone.values))
    assert len(ticks) == 3, "the whole model is looked at once"
    assert (scorer.error(whole), scorer.gains(whole)) == (None, None)


def test_both_kinds_together_are_each_what_they_are_alone():
    model = make("bert")
    mask = random_mask(HeadModel(model).mask, 1)
    names = ["taylor", "reconstruction", "taylor+reconstruction", "magnitude"]
    specs = [CriterionSpec.parse(name) for name in names]
    shared = SharedPass(model, [batch()], specs, loss="task")
    for _ in range(2):
        found = shared.scores(specs, mask)
        for name in names:
            alone = score(model, [batch()], name, mask=mask, loss="task")
            np.testing.assert_allclose(np.stack(found[name].values), np.stack(alone.values))
    joined = Scorer(model, None, specs[2], shared=shared)
    assert (joined.error(mask), joined.gains(mask)) == (None, None), "ranks have no error"


def test_batches_that_can_be_gone_through_once_are_enough():
    model = make("bert")
    mask = random_mask(HeadModel(model).mask, 1)
    names = ["taylor", "reconstruction"]
    expected = score_all(model, [batch(), batch(seed=2)], names, mask=mask)
    found = score_all(model, iter([batch(), batch(seed=2)]), names, mask=mask)
    for name in names:
        np.testing.assert_array_equal(np.stack(found[name].values), np.stack(expected[name].values))


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda m, o, b: o.logits.sum(), r"\[\]"),
        (lambda m, o, b: o.logits, r"\[3, 3\]"),
        (lambda m, o, b: o.logits[:2, 0], r"\[2\]"),
        (lambda m, o, b: o.logits[:, :1], r"\[3, 1\]"),
        (lambda m, o, b: 3.0, "float"),
        (lambda m, o, b: list(o.logits[:, 0]), "list"),
        (lambda m, o, b: None, "NoneType"),
    ],
)
@pytest.mark.parametrize("name", ("taylor", "fisher", "gradient_norm", "reconstruction"))
@pytest.mark.slow
def test_a_loss_of_the_wrong_shape_is_refused_in_one_line(name, loss, what):
    message = f"the loss returned {what}, and has to return a tensor of one number per sample"
    with pytest.raises(ScoreError, match=message) as caught:
        score(make("bert"), [batch()], name, loss=loss)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, o, b: o.logits[:, 0].detach(),
        lambda m, o, b: o.logits.argmax(1),
        lambda m, o, b: torch.zeros(3),
    ],
)
def test_a_loss_without_a_gradient_is_refused_in_one_line(loss):
    with pytest.raises(ScoreError, match="the loss has no gradient") as caught:
        score(make("bert"), [batch()], "taylor", loss=loss)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_averaged_is_refused_also_for_a_batch_of_one():
    with pytest.raises(ScoreError, match=r"the loss returned \[\].* do not average"):
        score(make("bert"), [batch((5,))], "taylor", loss=lambda m, o, b: o.logits.mean())


@pytest.mark.parametrize("name", ("reconstruction", "reconstruction:weight=none", "output_norm"))
def test_no_data_is_refused(name):
    for nothing, message in ((None, "there are no calibration samples"), ([], "data are empty")):
        with pytest.raises(DataError, match=message):
            score(make("bert"), nothing, name)


def test_labels_are_named_after_the_loss_that_needs_none_in_company_too():
    inputs = batch()
    del inputs["labels"]
    with pytest.raises(DataError, match="choose the loss 'kl', which needs none"):
        score_all(make("bert"), [inputs], ["reconstruction", "taylor"])
    found = score_all(make("bert"), [inputs], ["reconstruction", "gradient_norm"])
    assert {s.provenance["loss"] for s in found.values()} == {"kl"}


def test_data_and_masks_are_what_a_person_holds():
    model, mask = make("bert"), HeadModel(make("bert")).mask.drop((0, 1), (2, 3))
    batches = [batch(), batch(seed=2)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    expected = score(model, batches, "output_norm", mask=mask)
    for data, given in (
        (loader, mask),
        (iter(batches), [(0, 1), "2.3"]),
        (batches, ["0.1", (2, 3)]),
    ):
        scores = score(model, data, "output_norm", mask=given)
        np.testing.assert_array_equal(np.stack(scores.values), np.stack(expected.values))


@pytest.mark.parametrize("data", ("no-such-file", 5, [1, 2], {"a": 1}))
def test_other_data_are_refused_in_one_line(data):
    with pytest.raises(DeadheadError) as caught:
        score(make("bert"), data, "taylor")
    assert "\n" not in str(caught.value)
