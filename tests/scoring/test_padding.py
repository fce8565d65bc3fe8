"""A sample that is padding only counts nowhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from deadhead import HeadModel, PruningPlan, score_all
from deadhead.criteria import CRITERIA
from deadhead.losses.losses import held_out
from deadhead.repair.fits import fit
from deadhead.scoring import Scorer
from deadhead.scoring.diagnose import diagnose
from deadhead.similarity import head_grams
from models import batch, make

SHORT = {"shapley": "shapley:permutations=2"}
EVERYTHING = [SHORT.get(name, name) for name in CRITERIA if name != "file"]
KINDS = [
    ("bert", "classification"),
    ("bert", "base"),
    ("gpt2", "causal_lm"),
    ("bloom", "causal_lm"),
]


def with_empty(inputs, at):
    """Add a row of padding only at some places."""
    found = {}
    for name, value in inputs.items():
        rows = list(value)
        for place in sorted(at, reverse=True):
            rows.insert(place, torch.zeros_like(value[0]))
        found[name] = torch.stack(rows)
    return found


def inputs_of(kind, lengths=(9, 6, 4, 7, 5)):
    inputs = batch(lengths)
    if kind != "classification":
        del inputs["labels"]
    return inputs


@pytest.mark.parametrize("at", [(0,), (2,), (5,), (1, 3, 3)])
@pytest.mark.parametrize(("model_type", "kind"), KINDS)
def test_it_changes_no_score(model_type, kind, at):
    model, inputs = make(model_type, kind), inputs_of(kind)
    names = [n for n in EVERYTHING if kind != "base" or n not in ("ablation", SHORT["shapley"])]
    options = {} if kind == "classification" else {"loss": "kl"}
    expected = score_all(model, [inputs], names, **options)
    found = score_all(model, [with_empty(inputs, at)], names, **options)
    for name in names:
        for a, b in zip(expected[name].values, found[name].values, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12, err_msg=name)
        assert found[name].provenance == expected[name].provenance


def test_a_batch_of_nothing_else_changes_no_score():
    model, inputs = make("bert"), batch()
    empty = {name: torch.zeros_like(value) for name, value in inputs.items()}
    expected = score_all(model, [inputs], EVERYTHING)
    found = score_all(model, [empty, inputs, empty], EVERYTHING)
    for name in EVERYTHING:
        for a, b in zip(expected[name].values, found[name].values, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, err_msg=name)


def test_it_changes_no_moment_no_fit_and_no_probe():
    model = make("bert")
    view, inputs = HeadModel(model), batch((9, 6, 4, 7, 5, 3, 8, 8))
    padded = with_empty(inputs, (0, 3))
    plan = PruningPlan(view.mask.drop(*view.mask.heads[::3]), repair="least_squares")
    moments = [Scorer(view, [b], None, loss="kl").moments for b in (inputs, padded)]
    assert moments[0].samples == moments[1].samples
    for name in ("least_squares", "least_squares:bias=true", "bias", "least_squares_sequential"):
        fits = [
            fit(view, replace(plan, repair=name), m, batches=[b])
            for m, b in zip(moments, (inputs, padded), strict=True)
        ]
        for number, each in fits[0].items():
            assert torch.allclose(each.weight, fits[1][number].weight, atol=1e-9)
            assert (each.bias is None) == (fits[1][number].bias is None)
            if each.bias is not None:
                assert torch.allclose(each.bias, fits[1][number].bias, atol=1e-9)
    probes = [held_out([b])[0].batch for b in (inputs, padded)]
    assert all(torch.equal(probes[0][name], probes[1][name]) for name in inputs)


def test_it_changes_no_similarity_and_no_diagnosis():
    model, inputs = make("bert"), batch((9, 6, 4))
    padded = with_empty(inputs, (1,))
    for include_padding in (True, False):
        a, b = (head_grams(model, [x], include_padding=include_padding) for x in (inputs, padded))
        assert a.prompts == b.prompts == 3
        for x, y in zip(a.matrices, b.matrices, strict=True):
            np.testing.assert_allclose(y, x, rtol=1e-9)
    found = [diagnose(model, [x]) for x in (inputs, padded)]
    assert found[0].samples == found[1].samples
    assert [r.median for r in found[0].rows] == pytest.approx([r.median for r in found[1].rows])
