"""search, and whole key/value groups by a criterion that knows what heads cost together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from deadhead import Head, HeadModel, masked
from deadhead.errors import BudgetError, ScoreError
from deadhead.pruning.prune import choose
from deadhead.pruning.recipe import Recipe
from deadhead.scoring import Scorer
from deadhead.scoring.spec import make_criterion
from deadhead.strategies import Rules, units
from models import batch, make


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_swaps_never_raise_the_error_and_keep_the_number(model_type):
    model, data = make(model_type), [batch(seed=1), batch(seed=2)]
    scorer = Scorer(model, data, "reconstruction")
    found = {
        strategy: choose(model, data, Recipe(strategy=strategy, heads=0.5)).mask
        for strategy in ("greedy", "search")
    }
    assert found["search"].n_kept == found["greedy"].n_kept
    greedy, searched = (scorer.error(found[name]) for name in ("greedy", "search"))
    assert searched is not None
    assert greedy is not None
    assert searched <= greedy * (1 + 1e-9)


@pytest.mark.parametrize("strategy", ["greedy", "search"])
def test_key_value_groups_are_chosen_by_what_their_heads_cost_together(strategy):
    """A group says the same twice over: each head of it is cheap, together they are dear."""
    model, data = make("llama", "causal_lm"), [batch((9, 8, 7, 9) * 4)]
    view = HeadModel(model)
    with torch.no_grad():
        for head, twin in ((Head(1, 1), Head(1, 0)), (Head(1, 2), Head(1, 0))):
            view.head_weights(head)["query"].copy_(view.head_weights(twin)["query"])
            view.head_weights(head)["query_bias"].copy_(view.head_weights(twin)["query_bias"])
    scorer = Scorer(model, data, "reconstruction")
    scores, twins = scorer(), tuple(Head(1, i) for i in range(3))
    groups = units(view, scores, view.mask, Rules())
    assert groups[0] == twins
    (joint,) = scorer.group_errors(view.mask, [twins])
    assert joint == pytest.approx(scorer.error(view.mask.drop(*twins)), rel=1e-9)
    assert joint > 3 * sum(scores[h] for h in twins)
    errors = {g: scorer.error(view.mask.drop(*g)) for g in groups}
    cheapest = min(errors, key=errors.get)
    assert cheapest != twins, "or the test could not tell"
    chosen = choose(model, data, Recipe(criterion="reconstruction", strategy=strategy, heads=3))
    assert chosen.mask == view.mask.drop(*cheapest)


def test_swaps_of_groups_end_where_no_single_swap_helps():
    model, data = make("llama", "causal_lm"), [batch(seed=1), batch(seed=2)]
    scorer, whole = Scorer(model, data, "reconstruction"), HeadModel(model).mask
    mask = choose(model, data, Recipe(strategy="search", heads=9)).mask
    groups = [tuple(Head(b, i) for i in range(s, s + 3)) for b in range(3) for s in (0, 3)]
    gone = [g for g in groups if g[0] in mask.dropped]
    assert len(gone) == 3
    for back in gone:
        for unit in groups:
            if unit not in gone:
                rest = [h for g in gone if g != back for h in g]
                swapped = whole.drop(*rest, *unit)
                assert scorer.error(swapped) > scorer.error(mask) * (1 - 1e-6)


def test_a_criterion_that_knows_nothing_of_sets_ranks_groups_by_their_heads():
    model = make("llama", "causal_lm")
    for criterion in ("taylor", "reconstruction+magnitude"):
        scorer = Scorer(model, [batch()], criterion, loss="kl")
        assert scorer.group_errors(scorer.view.mask, [(Head(0, 0), Head(0, 1))]) is None
        found = choose(model, [batch()], Recipe(criterion=criterion, heads=3, loss="kl"))
        assert {h.block for h in found.mask.dropped} in ({0}, {1}, {2})


def mean_loss(model, data, mask):
    with masked(model, mask), torch.no_grad():
        return sum(float(F.cross_entropy(model(**b).logits, b["labels"])) for b in data) / len(data)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.slow
def test_the_objective_can_be_the_calibration_loss(model_type):
    model, data = make(model_type), [batch(seed=seed) for seed in (1, 2, 3)]
    recipe = Recipe(criterion="ablation", strategy="greedy", heads=8, per_step=8)
    greedy = choose(model, data, recipe).mask
    found = choose(model, data, replace(recipe, strategy="search")).mask
    assert len(found.dropped) == 8
    least = mean_loss(model, data, found)
    scorer = Scorer(model, data, "ablation")
    assert scorer.errors([greedy, found]) == pytest.approx([mean_loss(model, data, greedy), least])
    assert least < mean_loss(model, data, greedy) - 0.01


def test_the_loss_of_masks_needs_data_first():
    view = HeadModel(make("bert"))
    with pytest.raises(ScoreError, match="has seen no data yet; score first"):
        make_criterion("ablation", view).errors_of([view.mask])


def test_a_criterion_without_an_error_of_masks_is_refused():
    with pytest.raises(BudgetError, match="reconstruction or ablation, or strategy greedy"):
        choose(make("bert"), [batch()], Recipe(criterion="taylor", strategy="search", heads=2))
