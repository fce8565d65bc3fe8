"""A repair that keeps to text of the model's own making, and options of repairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, Recipe
from deadhead.errors import BudgetError, UnknownNameError
from deadhead.models.blocks import output_rows
from deadhead.options.values import DEFAULT_REPAIR
from deadhead.repair import REPAIRS, apply_repaired_, fit, own_notes
from deadhead.repair.write import read_fits, save_fits
from deadhead.scoring import Scorer, own_text
from deadhead.scoring.own_text import OwnText
from deadhead.scoring.passes import PassSettings
from models import DECODERS, batch, make

PLAIN = "least_squares:own=0"
DATA = [batch((9, 6, 4, 7, 5, 9, 8, 3))]


def written(model, seed=0, data=DATA):
    return OwnText(HeadModel(model), data, PassSettings(seed)).batches


def ids_of(batches):
    return torch.cat([b["input_ids"] for b in batches])


@pytest.mark.parametrize("model_type", DECODERS)
def test_what_a_model_writes_does_not_depend_on_its_cache(model_type):
    model = make(model_type, "causal_lm").eval()
    draws = torch.rand(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = torch.tensor([[3], [4], [5]])
    with torch.no_grad():
        both = [own_text._sampled(model, first, draws, [2], cached=c) for c in (True, False)]
    assert torch.equal(both[0]["input_ids"], both[1]["input_ids"])
    assert not (both[0]["input_ids"][:, 1:] == 2).any()  # texts do not end
    assert torch.equal(both[0]["input_ids"][:, :1], first)


def test_what_a_model_writes_depends_on_the_seed_alone(monkeypatch):
    model = make("opt", "causal_lm").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    texts = ids_of(written(model))
    assert texts.shape == (16, 40)  # as many positions as the model has
    assert set(texts[:, 0].tolist()) <= set(DATA[0]["input_ids"][:, 0].tolist())
    assert model.training
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    monkeypatch.setattr(own_text, "AT_ONCE", 5)
    assert torch.equal(ids_of(written(model)), texts)
    assert not torch.equal(ids_of(written(model, seed=1)), texts)


def test_a_model_that_takes_no_cache_writes_shorter_texts():
    model = make("gpt2", "causal_lm")
    forward = model.forward

    def without_cache(input_ids=None, attention_mask=None):
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    model.forward = without_cache
    assert ids_of(written(model)).shape == (16, own_text.UNCACHED)


@pytest.mark.parametrize("kind", ("classification", "base", "masked_lm"))
def test_for_encoders_calibration_texts_are_joined(kind):
    model = make("bert", kind)
    data = batch((9, 6, 4, 7, 5, 9, 8, 3))
    data["input_ids"][:, 0] = 1  # what every text begins with
    for row, length in enumerate(data["attention_mask"].sum(1)):
        data["input_ids"][row, length - 1] = 2
    texts = ids_of(written(model, data=[data]))
    assert texts.shape == (16, 40)
    assert (texts[:, 0] == 1).all()
    assert (texts[:, -1] == 2).all()
    assert not (texts[:, 1:-1] <= 2).any()
    held = set(data["input_ids"][[3, 7]].flatten().tolist()) - {0}  # texts held out of fits
    assert all(set(row.tolist()) <= held for row in texts[3::4])
    assert torch.equal(ids_of(written(model, data=[data])), texts)
    assert not torch.equal(ids_of(written(model, data=[data], seed=1)), texts)


def test_where_there_is_no_second_text_the_repair_is_the_plain_one_and_says_so():
    view = HeadModel(make("bert"))
    other = [{**DATA[0], "pixel_values": torch.ones(8, 2)}]
    assert OwnText(view, other, PassSettings()).batches == []
    moments = Scorer(view, DATA, None, loss="logit_norm").moments
    moments = replace(moments, own=tuple)
    plan = PruningPlan(view.mask.drop("0.1", "1.2", "2.3"), repair=DEFAULT_REPAIR)
    found, plain = (fit(view, replace(plan, repair=r), moments) for r in (DEFAULT_REPAIR, PLAIN))
    assert all(torch.equal(found[n].weight, plain[n].weight) for n in plain)
    assert "calibration data alone" in own_notes(view, plan, found)[0]
    assert not own_notes(view, replace(plan, repair=PLAIN), plain)


def test_the_repair_keeps_to_what_the_model_writes():
    model = make("opt", "causal_lm")
    view = HeadModel(model)
    moments = Scorer(view, [batch((3, 2, 3, 2))], None).moments  # two dozen directions unseen
    plan = PruningPlan(view.mask.drop("0.1", "0.4", "1.2", "1.3", "2.3"))
    off = {}
    for repair in (PLAIN, "least_squares", "least_squares:own=0.8"):
        fits = fit(view, replace(plan, repair=repair), moments)
        off[repair] = 0.0
        for number, found in fits.items():
            seen, rows = moments.own()[number], output_rows(view.blocks[number].output).detach()
            change = rows - found.weight
            error = (change @ seen.covariance * change).sum()
            off[repair] += float((error + (change @ seen.mean).square().sum()).detach())
    plain, default, most = off.values()
    assert most < default < 0.6 * plain


@pytest.mark.parametrize("model_type", ("mistral", "opt"))
def test_without_bias_the_bias_stays_as_it_is(model_type, tmp_path):
    model = make(model_type, "causal_lm")
    view = HeadModel(model)
    before = [getattr(block.output.bias, "data", None) for block in view.blocks]
    before = [None if bias is None else bias.clone() for bias in before]
    mask = view.mask.drop(*(Head(0, i) for i in range(6)), Head(1, 0), Head(1, 1), Head(1, 2))
    plan = PruningPlan(mask, action="mask", repair="least_squares")
    fits = fit(view, plan, Scorer(view, DATA, None).moments)
    assert all(found.bias is None for found in fits.values())
    file = tmp_path / "fits.safetensors"
    save_fits(file, view, plan, fits)
    read = read_fits(file, view, plan)
    assert read is not None
    assert all(torch.equal(read[n].weight, fits[n].weight) for n in fits)
    apply_repaired_(model, plan, read)
    for block, bias in zip(HeadModel(model).blocks, before, strict=True):
        assert (block.output.bias is None) == (bias is None)
        assert bias is None or torch.equal(block.output.bias, bias)


def test_without_bias_no_other_weights_have_a_smaller_error():
    model = make("mistral", "causal_lm")
    view = HeadModel(model)
    plan = PruningPlan(view.mask.drop("1.0", "1.1", "1.2"), repair="least_squares:own=0")
    moments = Scorer(view, DATA, None).moments
    found = fit(view, plan, moments)[1]
    seen, kept = moments.gradient_weighted[1], slice(12, 24)
    second = seen.second.sum(0) / sum(seen.tokens)
    change = (output_rows(view.blocks[1].output).detach() - found.weight) @ second[:, kept]
    assert change.abs().max() < 0.02 * second.diagonal().mean()  # the ridge is 1e-4 of that


@pytest.mark.parametrize(
    ("repair", "said"),
    [
        ("least_squares:own=2", "own=2 is no share"),
        ("least_squares:onw=.2", "did you mean 'own'"),
        ("least_squares:bias=maybe", "write true or false"),
        ("bias:own=0.2", "has no options"),
        ("none:own=0.2", "has no options"),
    ],
)
def test_options_of_repairs_are_checked_before_any_work(repair, said):
    with pytest.raises((BudgetError, UnknownNameError), match=said):
        Recipe(repair=repair)


def test_a_repair_may_have_options_behind_its_name():
    assert REPAIRS["least_squares"].own == 0.3
    assert REPAIRS["least_squares:own=0:bias=true"].own == 0
    assert REPAIRS["distill"].begins_with == DEFAULT_REPAIR
    assert Recipe(heads=2).settled().plan(HeadModel(make("bert")).mask).repair == DEFAULT_REPAIR
