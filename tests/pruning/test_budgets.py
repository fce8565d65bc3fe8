import copy

import pytest

from deadhead.errors import BudgetError, UnknownNameError
from deadhead.measure import parameter_count
from deadhead.models.heads import HeadModel
from deadhead.pruning.moves import Budget, BudgetMeter
from deadhead.pruning.prune import choose
from deadhead.pruning.recipe import Recipe
from deadhead.scoring import Scorer
from deadhead.surgery import remove_
from deadhead.types import Head, PruningPlan
from models import MODEL_TYPES, batch, make


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_parameters_are_those_of_the_cut_model(model_type):
    model = make(model_type)
    view = HeadModel(model)
    mask = view.mask.drop(Head(0, 0), Head(1, 1))
    meter = BudgetMeter(view, Budget("parameters", 0.5), gqa="ungroup")
    cut = remove_(copy.deepcopy(model), PruningPlan(mask, gqa="ungroup"))
    assert meter.share(mask) == pytest.approx(parameter_count(cut) / parameter_count(model))
    assert meter.share(view.mask) == 1


@pytest.mark.parametrize("model_type", ["llama", "opt"])
def test_cache_bytes_are_those_of_the_cut_model(model_type):
    model = make(model_type)
    view = HeadModel(model)
    group = view.blocks[0].shape.group_size
    mask = view.mask.drop(*(Head(0, i) for i in range(group)))
    cut = remove_(copy.deepcopy(model), PruningPlan(mask))
    share = HeadModel(cut).kv_bytes_per_token() / view.kv_bytes_per_token()
    assert BudgetMeter(view, Budget("kv_bytes", 0.5), gqa="whole_groups").share(mask) == share


def test_flops_fall_with_heads_and_never_to_nothing():
    view = HeadModel(make("bert"))
    meter = BudgetMeter(view, Budget("flops", 0.5), gqa="whole_groups")
    one, none = view.mask.drop(Head(0, 0)), view.mask.drop(*view.mask.heads)
    assert 0 < meter.share(none) < meter.share(one) < 1


def test_choosing_stops_at_the_first_mask_within_the_budget():
    model = make("bert")
    view = HeadModel(model)
    recipe = Recipe(criterion="magnitude", strategy="one_shot", budget="parameters=97%")
    plan = choose(model, None, recipe)
    meter = BudgetMeter(view, Budget("parameters", 0.97), gqa="whole_groups")
    assert meter.met(plan.mask)
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
    assert last is None or not meter.met(last.mask)


def test_several_budgets_are_all_kept():
    model = make("llama", "causal_lm")
    view = HeadModel(model)
    sizes = {}
    for budget in ("parameters=95%", "kv_bytes=60%", "parameters=95%,kv_bytes=60%"):
        recipe = Recipe(criterion="magnitude", strategy="one_shot", budget=budget)
        sizes[budget] = len(choose(model, None, recipe).mask.dropped)
    one, other, both = sizes.values()
    assert one != other, "or the test could not tell"
    assert both == max(one, other)
    both = Recipe(criterion="magnitude", budget="parameters=95%,flops=1%")
    with pytest.raises(BudgetError, match=r"flops=0.01 cannot be reached"):
        choose(model, None, both)
    assert view.mask == HeadModel(model).mask


def test_search_keeps_a_budget_with_as_many_heads_as_greedy_needs():
    model, data = make("bert"), [batch(seed=1), batch(seed=2)]
    masks = {
        strategy: choose(model, data, Recipe(strategy=strategy, budget="parameters=97%")).mask
        for strategy in ("greedy", "search")
    }
    meter = BudgetMeter(HeadModel(model), Budget("parameters", 0.97), gqa="whole_groups")
    assert meter.met(masks["search"])
    assert len(masks["search"].dropped) == len(masks["greedy"].dropped)
    errors = Scorer(model, data, "reconstruction").errors(list(masks.values()))
    assert errors[1] <= errors[0]


def test_budgets_that_cannot_be_had_are_refused_before_any_pass():
    recipe = Recipe(criterion="taylor", strategy="greedy", budget="parameters=1%")
    with pytest.raises(BudgetError, match=r"parameters=0.01 cannot be reached: .* leaves \d+.\d%"):
        choose(make("bert"), None, recipe)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("parameters", BudgetError, "not a budget; write what may stay"),
        ("parameters=x", BudgetError, "not a budget"),
        ("parameters=120%", BudgetError, "keeps a share in"),
        ("memory=50%", UnknownNameError, "budget 'memory' is not known"),
        ("flops=50%,flops=60%", BudgetError, "has flops twice"),
        ("flops=50%,", BudgetError, "'' is not a budget"),
    ],
)
def test_what_is_no_budget_is_refused(text, error, words):
    with pytest.raises(error, match=words):
        Recipe(budget=text)


def test_budgets_and_single_moves_exclude_each_other():
    with pytest.raises(BudgetError, match="met step by step"):
        Recipe(strategy="search", budget="latency=90%")
    with pytest.raises(BudgetError, match="both say where to end"):
        Recipe(budget="flops=90%", cut=3)
