"""Shapley values of heads: the axioms, the sampling and when it stops."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
import transformers

from deadhead import Head, HeadModel, score, score_all
from deadhead.errors import BudgetError, DataError, ScoreError, UnknownNameError
from deadhead.scoring.trials import Trials
from masks import random_mask
from models import batch, make

WHOLE = "precision=0:tolerance=0"  # every permutation, to its end
DATA = [batch(), batch((5, 9), seed=2)]
SAME = [batch((6, 6, 6))]


def small():
    """A model of 2 x 2 heads, whose values follow from all 16 coalitions."""
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def value_of(model, mask, data=DATA):
    """Minus the mean loss under a mask."""
    return -float(Trials(HeadModel(model), data).losses([mask])[0])


def exact(model):
    """Values from the definition: a weighted mean over all coalitions of the others."""
    full = HeadModel(model).mask
    heads, n = full.heads, full.n_heads
    values = {}
    for size in range(n + 1):
        for gone in itertools.combinations(heads, n - size):
            values[frozenset(set(heads) - set(gone))] = value_of(model, full.drop(*gone), SAME)
    found = dict.fromkeys(heads, 0.0)
    for head in heads:
        for kept, value in values.items():
            if head not in kept:
                weight = math.factorial(len(kept)) * math.factorial(n - len(kept) - 1)
                gain = values[kept | {head}] - value
                found[head] += weight / math.factorial(n) * gain
    return found


def test_it_tends_to_the_value_of_the_definition():
    model = small()
    expected = exact(model)
    found = score(model, SAME, f"shapley:permutations=120:{WHOLE}", seed=1)
    error = found.provenance["largest_standard_error"]
    assert 0 < error < 0.1 * np.ptp(list(expected.values()))
    assert all(abs(found[h] - value) < 4 * error for h, value in expected.items())


@pytest.mark.parametrize("permutations", (1, 2, 3))
@pytest.mark.parametrize("antithetic", ("true", "false"))
@pytest.mark.parametrize("model_type", ("bert", "albert", "llama"))
def test_values_add_up_to_what_all_heads_are_worth(model_type, permutations, antithetic):
    model = make(model_type)
    full = HeadModel(model).mask
    spec = f"shapley:permutations={permutations}:antithetic={antithetic}:{WHOLE}"
    found = score(model, DATA, spec)
    worth = value_of(model, full) - value_of(model, full.drop(*full.heads))
    assert abs(np.concatenate(found.values).sum() - worth) <= 1e-9
    assert abs(worth) > 1e-3


def test_under_a_mask_the_others_share_what_they_are_worth():
    model = make("bert")
    mask = random_mask(HeadModel(model).mask, 1)
    found = score(model, DATA, f"shapley:permutations=2:{WHOLE}", mask=mask)
    assert {h for h in HeadModel(model).mask.heads if np.isnan(found[h])} == set(mask.dropped)
    worth = value_of(model, mask) - value_of(model, mask.drop(*mask.heads))
    assert abs(np.nansum(np.concatenate(found.values)) - worth) <= 1e-9


def test_a_dead_head_is_worth_nothing():
    model, dead = make("bert"), Head(2, 1)
    with torch.no_grad():
        HeadModel(model).head_weights(dead)["value"].zero_()
        HeadModel(model).head_weights(dead)["value_bias"].zero_()
    found = score(model, DATA, f"shapley:permutations=4:{WHOLE}")
    assert abs(found[dead]) <= 1e-12
    assert min(abs(found[h]) for h in HeadModel(model).mask.heads if h != dead) > 1e-6


def test_two_copies_of_a_head_are_worth_the_same():
    model = small()
    with torch.no_grad():
        first, second = (HeadModel(model).head_weights(Head(1, i)) for i in (0, 1))
        for part, weight in first.items():
            second[part].copy_(weight)
    found = exact(model)
    assert found[Head(1, 0)] == pytest.approx(found[Head(1, 1)], abs=1e-12)
    sampled = score(model, SAME, f"shapley:permutations=60:{WHOLE}")
    error = sampled.provenance["largest_standard_error"]
    assert abs(sampled[Head(1, 0)] - sampled[Head(1, 1)]) < 6 * error


def test_a_seed_gives_the_same_values():
    spec = "shapley:permutations=4"
    found = [score(make("bert"), DATA, spec, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert not np.allclose(found[0].values, found[2].values)


def test_sampling_stops_once_it_is_precise_enough():
    model = make("bert")
    found = score(model, DATA, "shapley:permutations=40:precision=0.2")
    used, error = (found.provenance[k] for k in ("permutations", "largest_standard_error"))
    assert 6 <= used < 40
    assert used % 2 == 0
    assert error < 0.2 * np.ptp(np.concatenate(found.values))
    again = score(model, DATA, f"shapley:permutations={used}:precision=0")
    assert np.array_equal(np.stack(again.values), np.stack(found.values))
    fewer = score(model, DATA, f"shapley:permutations={used - 2}:precision=0")
    few = fewer.provenance["largest_standard_error"]
    assert used == 6 or few >= 0.2 * np.ptp(np.concatenate(fewer.values))


@pytest.mark.parametrize(("spec", "used"), [("", 4), (":antithetic=false", 3)])
def test_provenance_says_how_it_was_sampled(spec, used):
    found = score(small(), DATA, f"shapley:permutations=3:precision=0{spec}", seed=5)
    error = found.provenance["largest_standard_error"]
    assert error > 0
    assert json.loads(json.dumps(found.provenance)) == {
        "seed": 5,
        "samples": 5,
        "loss": "task",
        "permutations": used,
        "largest_standard_error": error,
    }
    one = score(small(), DATA, "shapley:permutations=1:antithetic=false").provenance
    assert one["largest_standard_error"] is None


def test_reverses_are_followed_as_well():
    model = small()

    def loss(model, outputs, inputs):
        return outputs.logits[:, 0]

    both = score(model, DATA, f"shapley:permutations=2:{WHOLE}", loss=loss)
    alone = score(model, DATA, f"shapley:permutations=1:antithetic=false:{WHOLE}", loss=loss)
    order = np.random.default_rng(0).permutation(4)
    heads = HeadModel(model).mask.heads
    full = HeadModel(model).mask
    trials = Trials(HeadModel(model), DATA, loss)

    def credits(order):
        nested = [full.drop(*(heads[i] for i in order[n:])) for n in range(5)]
        return dict(zip([heads[i] for i in order], -np.diff(trials.losses(nested)), strict=True))

    forth, back = credits(order), credits(order[::-1])
    assert all(abs(alone[h] - forth[h]) <= 1e-12 for h in heads)
    assert all(abs(both[h] - (forth[h] + back[h]) / 2) <= 1e-12 for h in heads)


def test_a_permutation_ends_where_the_loss_is_that_of_the_whole_model():
    model = make("bert")
    full = HeadModel(model).mask
    spec = "shapley:permutations=1:antithetic=false:precision=0:tolerance={}"
    whole, cut = (score(model, DATA, spec.format(t)) for t in (0, 0.5))
    order = [full.heads[i] for i in np.random.default_rng(0).permutation(18)]
    worth = value_of(model, full) - value_of(model, full.drop(*full.heads))
    reached = np.cumsum([whole[h] for h in order])
    end = next(n for n, value in enumerate(reached) if abs(worth - value) < 0.5 * abs(worth))
    assert end < 17
    assert all(abs(cut[h] - whole[h]) <= 1e-12 for h in order[: end + 1])
    assert all(cut[h] == 0 for h in order[end + 1 :])


def test_progress_is_told_at_most_once_for_each_batch():
    calls = []
    tell = lambda: calls.append(1)  # noqa: E731
    score_all(make("bert"), DATA * 3, [f"shapley:permutations=4:{WHOLE}"], on_batch=tell)
    assert len(calls) == 6


def test_one_head_alone_is_worth_all():
    model = small()
    full = HeadModel(model).mask
    mask = full.drop(*full.heads[1:])
    found = score(model, DATA, "shapley:permutations=3", mask=mask)
    assert found[full.heads[0]] == pytest.approx(
        value_of(model, mask) - value_of(model, full.drop(*full.heads)), abs=1e-12
    )
    nothing = score(model, DATA, "shapley", mask=full.drop(*full.heads))
    assert np.isnan(np.concatenate(nothing.values)).all()


def test_divergence_needs_no_labels():
    bare = [{k: v for k, v in b.items() if k != "labels"} for b in DATA]
    with pytest.raises(DataError, match="choose the loss 'kl', which needs none"):
        score(small(), bare, "shapley")
    found = score(small(), bare, f"shapley:permutations=2:{WHOLE}", loss="kl")
    assert np.concatenate(found.values).sum() > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("permutations=0", BudgetError, "permutations is 0; give 1 or more"),
        ("precision=-1", BudgetError, r"precision is -1.0; give a fraction of 0 or more"),
        ("tolerance=nan", BudgetError, r"tolerance is nan; give a fraction of 0 or more"),
        ("permutations=few", UnknownNameError, "a number, as in 20"),
        ("permutation=3", UnknownNameError, "did you mean 'permutations'"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        score(small(), DATA, f"shapley:{options}")


def test_a_loss_that_says_nothing_about_a_model_is_refused():
    with pytest.raises(ScoreError, match="choose 'kl'"):
        score(small(), DATA, "shapley", loss="logit_norm")
