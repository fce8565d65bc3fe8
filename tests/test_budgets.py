import copy

import pytest

from deadhead.budgets import Budget, Gauge
from deadhead.errors import BudgetError, UnknownNameError
from deadhead.heads import HeadModel
from deadhead.pruning import choose
from deadhead.recipe import Recipe
from deadhead.report import parameter_count
from deadhead.surgery import remove_
from deadhead.types import Head, PruningPlan
from models import MODEL_TYPES, make


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_parameters_are_those_of_the_cut_model(model_type):
    model = make(model_type)
    view = HeadModel(model)
    mask = view.mask.drop(Head(0, 0), Head(1, 1))
    gauge = Gauge(view, Budget("parameters", 0.5), gqa="ungroup")
    cut = remove_(copy.deepcopy(model), PruningPlan(mask, gqa="ungroup"))
    assert gauge.share(mask) == pytest.approx(parameter_count(cut) / parameter_count(model))
    assert gauge.share(view.mask) == 1


@pytest.mark.parametrize("model_type", ["llama", "opt"])
def test_cache_bytes_are_those_of_the_cut_model(model_type):
    model = make(model_type)
    view = HeadModel(model)
    group = view.blocks[0].shape.group_size
    mask = view.mask.drop(*(Head(0, i) for i in range(group)))
    cut = remove_(copy.deepcopy(model), PruningPlan(mask))
    share = HeadModel(cut).kv_bytes_per_token() / view.kv_bytes_per_token()
    assert Gauge(view, Budget("kv_bytes", 0.5), gqa="whole_groups").share(mask) == share


def test_flops_fall_with_heads_and_never_to_nothing():
    view = HeadModel(make("bert"))
    gauge = Gauge(view, Budget("flops", 0.5), gqa="whole_groups")
    one, none = view.mask.drop(Head(0, 0)), view.mask.drop(*view.mask.heads)
    assert 0 < gauge.share(none) < gauge.share(one) < 1


def test_choosing_stops_at_the_first_mask_within_the_budget():
    model = make("bert")
    view = HeadModel(model)
    recipe = Recipe(criterion="magnitude", strategy="one_shot", budget="parameters=97%")
    plan = choose(model, None, recipe)
    gauge = Gauge(view, Budget("parameters", 0.97), gqa="whole_groups")
    assert gauge.met(plan.mask)
    assert plan.mask.dropped
    order = choose(model, None, Recipe(criterion="magnitude", strategy="one_shot", heads=1.0))
    assert set(plan.mask.dropped) <= set(order.mask.dropped)
    last = (
        choose(
            model,
            None,
            Recipe(criterion="magnitude", strategy="one_shot", heads=len(plan.mask.dropped) - 1),
        )
        if len(plan.mask.dropped) > 1
        else None
    )
    assert last is None or not gauge.met(last.mask)


def test_budgets_that_cannot_be_had_are_refused_before_any_pass():
    recipe = Recipe(criterion="taylor", strategy="greedy", budget="parameters=1%")
    with pytest.raises(BudgetError, match=r"parameters=0.01 cannot be had: \d+.\d% is left"):
        choose(make("bert"), None, recipe)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("parameters", BudgetError, "not a budget; write what may stay"),
        ("parameters=x", BudgetError, "not a budget"),
        ("parameters=120%", BudgetError, "keeps a share in"),
        ("memory=50%", UnknownNameError, "budget 'memory' is not known"),
    ],
)
def test_what_is_no_budget_is_refused(text, error, words):
    with pytest.raises(error, match=words):
        Recipe(budget=text)


def test_budgets_and_single_moves_exclude_each_other():
    with pytest.raises(BudgetError, match="met step by step"):
        Recipe(strategy="search", budget="flops=90%")
    with pytest.raises(BudgetError, match="both say where to end"):
        Recipe(budget="flops=90%", cut=3)
