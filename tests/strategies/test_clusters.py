"""The strategy clusters: one head stands for each group, in exact numbers, for every action."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, Recipe, load_model, open_task, prune
from deadhead.errors import BudgetError, DataError, HeadError, UnknownNameError
from deadhead.pruning.prune import choose_plan
from deadhead.pruning.trajectory import Completed
from deadhead.similarity import Clustering, head_grams, measured
from deadhead.surgery import applied, fold_, remove_
from deadhead.types import PruningPlan
from models import batch, make, outputs


def chosen(model, heads=0.5, **values):
    how = {k: values.pop(k) for k in list(values) if k in Clustering.__dataclass_fields__}
    batches = values.pop("batches", [batch()])
    recipe = Recipe(strategy="clusters", heads=heads, clustering=Clustering(**how), **values)
    return choose_plan(HeadModel(model), batches, recipe)


@pytest.mark.parametrize("grouping", ["balanced", "nearest_pairs", "importance_budget", "random"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_actual_is_nominal(grouping, share):
    model = make("opt", "causal_lm")  # 3 x 6 heads
    plan = chosen(model, share, grouping=grouping, action="duplicate")
    asked = int(np.ceil(share * 18 - 0.5))
    assert len(plan.mask.dropped) == len(plan.copies) == asked
    assert all(plan.mask.keeps(source) for source in plan.copies.values())
    assert all(head.block == source.block for head, source in plan.copies.items())
    assert plan.action == "duplicate"


def test_planted_twins_are_grouped_and_folding_them_costs_nothing():
    model = make("gpt2", "causal_lm")
    view = HeadModel(model)
    twins = {Head(0, 4): Head(0, 1), Head(1, 5): Head(1, 0), Head(2, 3): Head(2, 2)}
    with torch.no_grad():
        for head, source in twins.items():
            for part in ("query", "key", "value"):
                to, of = view.head_weights(head), view.head_weights(source)
                for name in (part, f"{part}_bias"):
                    to[name].copy_(of[name])
    plan = chosen(model, 3, action="fold")
    assert plan.copies == twins
    expected = outputs(model, batch())
    fold_(model, plan)
    assert (outputs(model, batch()) - expected).abs().max() <= 1e-10


def test_global_groups_may_span_blocks_and_then_only_duplicate():
    model = make("opt", "causal_lm")
    plan = chosen(model, 9, grouping="global", action="duplicate")
    assert len(plan.copies) == 9
    assert any(head.block != source.block for head, source in plan.copies.items())
    with pytest.raises(HeadError, match="they are in different blocks"):
        fold_(model, replace(plan, action="fold"))


def test_random_groups_with_random_representatives_look_at_no_data():
    for model_type, how in (("opt", {}), ("llama", {}), ("llama", {"unit": "kv"})):
        model = make(model_type, "causal_lm")
        values = {"grouping": "random", "representative": "random", **how}
        blind = chosen(model, 9, batches=None, **values)
        assert blind == chosen(model, 9, **values)
        assert len(blind.copies) == 9
        with applied(model, replace(blind, action="duplicate")):  # its groups can be copied
            outputs(model, batch())
    with pytest.raises(DataError, match="there are no prompts"):
        chosen(model, 9, batches=None, grouping="random")  # medoids are found by distances


def shortened(*drops):
    """Llama after a cut that copies keys wherever the groups become uneven."""
    model = make("llama", "causal_lm")
    mask = HeadModel(model).mask.drop(*map(Head.parse, drops))
    return remove_(model, PruningPlan(mask, gqa="ungroup"))


@pytest.mark.parametrize("grouping", ["balanced", "global", "importance_budget", "random"])
@pytest.mark.parametrize("drops", [("0.0",), ("0.0", "0.3")])  # keys copied; smaller groups
def test_key_value_heads_of_unequal_groups_are_refused_before_any_work(drops, grouping):
    batches = iter([])  # one that is looked at says that it is empty
    with pytest.raises(HeadError, match=r"those of block 0 have [12], .* have 3 .*--unit head"):
        chosen(shortened(*drops), 6, unit="kv", grouping=grouping, batches=batches)
    found = chosen(shortened(*drops), 6, action="duplicate")
    assert len(found.mask.dropped) == 6


@pytest.mark.parametrize("drops", [("0.0", "1.0", "2.0"), ("0.0", "0.1", "0.2")])
def test_key_value_heads_of_a_cut_model_fold_exactly(drops):
    model = shortened(*drops)
    plan = chosen(model, 9, unit="kv", action="fold")
    assert len(plan.mask.dropped) == 9
    with applied(model, replace(plan, action="duplicate")):
        expected = outputs(model, batch())
    fold_(model, plan)
    assert (outputs(model, batch()) - expected).abs().max() <= 1e-10


def test_shared_keys_and_values_are_grouped_as_they_can_be_copied():
    model = make("llama", "causal_lm")
    heads = chosen(model, 6, action="fold")
    assert heads.gqa == "ungroup"
    assert all(h.index // 3 == s.index // 3 for h, s in heads.copies.items())
    with applied(model, heads):
        expected = outputs(model, batch())
    whole = chosen(model, 9, unit="kv", action="fold")
    assert {h.block for h in whole.copies} == {0, 1, 2}
    assert all(s.index == (h.index + 3) % 6 for h, s in whole.copies.items())
    cache = HeadModel(model).kv_bytes_per_token()
    fold_(model, heads)
    assert (outputs(model, batch()) - expected).abs().max() <= 1e-10
    other = make("llama", "causal_lm")
    fold_(other, whole)
    assert HeadModel(other).kv_bytes_per_token() == cache / 2
    with pytest.raises(BudgetError, match="cannot be removed"):
        chosen(make("llama", "causal_lm"), 4, unit="kv")


def test_distances_of_shared_heads_are_within_their_groups():
    view = HeadModel(make("llama", "causal_lm"))
    found = measured(view, head_grams(view, [batch()]), Clustering())
    assert [len(units) for units in found.units] == [3] * 6


def test_prompts_may_differ_from_the_calibration_data():
    model = make("opt", "causal_lm")
    plans = [chosen(model, 9, batches=[batch(seed=s, lengths=(9, 9))]) for s in range(4)]
    assert len({p.mask for p in plans}) > 1
    recipe = Recipe(strategy="clusters", heads=9)
    other = choose_plan(
        HeadModel(model), [batch()], recipe, prompts=[batch(seed=3, lengths=(9, 9))]
    )
    assert other == plans[3]


def test_an_importance_table_makes_the_budget(tmp_path):
    model = make("opt", "causal_lm")
    table = np.arange(18.0).reshape(3, 6)
    np.save(tmp_path / "table.npy", table)
    plan = chosen(model, 7, grouping="importance_budget", importance=str(tmp_path / "table.npy"))
    assert [sum(row) for row in plan.mask.kept] == [1, 4, 6]
    tables = {"gradient_norm:reduction=batch": table, "other": table[::-1]}
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({name: rows.tolist() for name, rows in tables.items()}))
    for name, kept in (("gradient_norm:reduction=batch", [1, 4, 6]), ("other", [6, 4, 1])):
        keyed = chosen(model, 7, grouping="importance_budget", importance=f"{file}:{name}")
        assert [sum(row) for row in keyed.mask.kept] == kept
    np.save(tmp_path / "table.npy", table[:2])
    with pytest.raises(HeadError, match="give the table of this model"):
        chosen(model, 7, grouping="importance_budget", importance=str(tmp_path / "table.npy"))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"heads": 16}, BudgetError, "keeps a representative"),
        ({"inverse": True}, BudgetError, "inverse=True means nothing to strategy 'clusters'"),
        ({"cut": 3}, BudgetError, "cut=3 means nothing"),
        ({"grouping": "balance"}, UnknownNameError, "did you mean 'balanced'"),
        ({"distance": "cosin"}, UnknownNameError, "did you mean 'cosine'"),
        ({"batches": []}, DataError, "there are no prompts"),
    ],
)
def test_what_cannot_be_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        chosen(make("opt", "causal_lm"), **{"heads": 3, **values})


@pytest.mark.parametrize("action", ["duplicate", "fold"])
def test_other_strategies_have_nothing_to_copy(action):
    with pytest.raises(BudgetError, match=f"action '{action}' needs to know which head a copy"):
        Recipe(strategy="greedy", action=action)


def test_prune_judges_what_the_plan_does_and_a_resumed_run_knows_its_copies():
    loaded = load_model("bundled:decoder")
    tasks = open_task(
        "bundled:agreement",
        loaded.tokenizer,
        config=loaded.model.config,
        calibration_size=24,
        test_size=48,
    )
    recipe = Recipe(strategy="clusters", heads=0.5, action="fold")
    whole = prune(loaded.model, tasks, recipe)
    fold = whole.trajectory.steps[-1].metric
    assert len(whole.plan.copies) == 8
    done = Completed(whole.scores, (whole.trajectory.start, *whole.trajectory.steps))
    again = prune(loaded.model, tasks, recipe, completed=done)
    assert again.plan == whole.plan
    dense = done.steps[0]
    other = replace(done.steps[1], mask=dense.mask.drop(*dense.mask.heads[:8]))
    with pytest.raises(DataError, match="grouped the heads in another way"):
        prune(loaded.model, tasks, recipe, completed=Completed(whole.scores, (dense, other)))
    mask = prune(loaded.model, tasks, replace(recipe, action="mask"))
    assert mask.plan.mask == whole.plan.mask
    assert mask.trajectory.steps[-1].metric != fold
    fold_(loaded.model, whole.plan)
    assert tasks.test.evaluate(loaded.model).value == pytest.approx(fold)
