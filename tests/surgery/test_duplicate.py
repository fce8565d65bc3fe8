"""Duplication and folding: what is copied, what is refused and why."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from deadhead import Head, HeadModel, PruningPlan, save_model
from deadhead.errors import GroupError, HeadError, UnknownNameError
from deadhead.surgery import applied, duplicate_, fold_, remove_
from models import batch, make, outputs


def plan(model, copies, **values):
    copies = {Head.parse(k): Head.parse(v) for k, v in copies.items()}
    return PruningPlan(HeadModel(model).mask.drop(*copies), copies, **values)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "bloom", "gpt_neox", "opt"])
def test_a_copy_has_its_sources_queries_keys_and_values_and_its_own_output(model_type):
    model = make(model_type, "base")
    view = HeadModel(model)
    own = view.head_weights(Head(1, 4))["output"].clone()
    duplicate_(model, plan(model, {"1.4": "1.2", "1.5": "0.3"}, action="duplicate"))
    for head, source in ((Head(1, 4), Head(1, 2)), (Head(1, 5), Head(0, 3))):
        copied, of = view.head_weights(head), view.head_weights(source)
        for part in set(copied) - {"output"}:
            assert torch.equal(copied[part], of[part])
    assert torch.equal(view.head_weights(Head(1, 4))["output"], own)


def test_queries_of_one_group_can_be_copied_and_its_keys_stay():
    model = make("llama", "base")
    view = HeadModel(model)
    keys = view.blocks[0].key.weight.clone()
    duplicate_(model, plan(model, {"0.2": "0.0"}, action="duplicate"))
    assert torch.equal(
        view.head_weights(Head(0, 2))["query"], view.head_weights(Head(0, 0))["query"]
    )
    assert torch.equal(view.blocks[0].key.weight, keys)


def test_copies_across_key_value_groups_are_refused_with_the_way_out():
    model = make("llama", "base")
    with pytest.raises(GroupError, match=r"different key/value heads, and 0\.3 shares.*0\.4, 0\.5"):
        duplicate_(model, plan(model, {"0.3": "0.0"}, action="duplicate"))
    with pytest.raises(GroupError, match="--unit kv"):
        fold_(model, plan(model, {"0.3": "0.0"}, action="fold"))


def test_half_a_group_is_not_folded_under_whole_groups():
    model = make("llama", "base")
    with pytest.raises(GroupError, match="to fold query heads of one group plan with --gqa"):
        fold_(model, plan(model, {"0.2": "0.0"}, action="fold"))


def test_a_fold_across_blocks_is_refused_and_the_exact_way_named():
    model = make("gpt2", "base")
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(HeadError, match=r"1\.2 into 0\.2: they are in different blocks.*duplicate"):
        fold_(model, plan(model, {"1.1": "1.0", "1.2": "0.2"}, action="fold"))
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_alibi_heads_fold_with_their_sources_slope_only():
    inputs, model = batch(), make("bloom", "causal_lm")
    copies = {"0.4": "0.1", "1.0": "1.3", "1.2": "1.3"}
    with pytest.raises(HeadError, match=r"own ALiBi slope.*slope='source'"):
        fold_(model, plan(model, copies, action="fold"))
    found = {}
    for slope in ("target", "source"):
        with applied(model, plan(model, copies, action="duplicate", slope=slope)):
            found[slope] = outputs(model, inputs)
    assert (found["target"] - found["source"]).abs().max() > 1e-6
    fold_(model, plan(model, copies, action="fold", slope="source"))
    assert (outputs(model, inputs) - found["source"]).abs().max() <= 1e-10


def test_slopes_survive_saving_loading_and_further_cuts(tmp_path):
    inputs, model = batch(), make("bloom", "causal_lm")
    copies = {"0.4": "0.1", "1.0": "1.3"}
    duplicate_(model, plan(model, copies, action="duplicate", slope="source"))
    expected = outputs(model, inputs)
    save_model(model, None, tmp_path / "copied")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "copied").eval()
    assert torch.equal(outputs(again, inputs), expected)
    mask = HeadModel(again).mask.drop(Head(0, 1), Head(1, 1))
    with applied(again, PruningPlan(mask)):
        expected = outputs(again, inputs)
    remove_(again, PruningPlan(mask))
    assert (outputs(again, inputs) - expected).abs().max() <= 1e-10
    save_model(again, None, tmp_path / "cut")
    cut = AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()
    assert torch.equal(outputs(cut, inputs), outputs(again, inputs))


@pytest.mark.parametrize(
    ("copies", "message"),
    [
        ({"0.1": "0.2", "0.2": "0.3"}, r"0\.2 is copied onto 0\.1 and is a copy itself, of 0\.3"),
        ({"0.1": "7.0"}, r"there is no head 7\.0"),
    ],
)
def test_copies_that_make_no_sense_are_refused(copies, message):
    model = make("bert", "base")
    with pytest.raises(HeadError, match=message):
        duplicate_(model, plan(model, copies, action="duplicate"))


def test_heads_that_were_cut_can_neither_give_nor_take():
    model = make("bert", "base")
    remove_(model, PruningPlan(HeadModel(model).mask.drop(Head(0, 1))))
    with pytest.raises(HeadError, match=r"head 0\.1 has been removed"):
        duplicate_(model, plan(model, {"0.2": "0.1"}, action="duplicate"))


def test_a_fold_keeps_its_sources_and_drops_its_copies():
    model = make("bert", "base")
    copies = {Head(0, 1): Head(0, 2)}
    for mask in (HeadModel(model).mask, HeadModel(model).mask.drop(Head(0, 1), Head(0, 2))):
        with pytest.raises(HeadError, match="has to drop the first and keep the second"):
            fold_(model, PruningPlan(mask, copies, action="fold"))


def test_plans_name_known_actions_and_say_what_becomes_of_heads():
    model = make("bert", "base")
    with pytest.raises(UnknownNameError, match="did you mean 'duplicate'"):
        plan(model, {}, action="dupplicate")
    text = plan(model, {"0.1": "0.2", "1.3": "0.2"}, action="duplicate").describe()
    assert "block 0: heads 1 (as 2); 5 of 6 stay" in text
    assert "block 1: heads 3 (as 0.2)" in text
    again = plan(model, {"0.1": "0.2"}, action="fold", slope="source")
    assert PruningPlan.from_json(again.to_json()) == again


def test_a_dropped_head_without_a_source_is_no_duplicate():
    model = make("bert", "base")
    alone = PruningPlan(HeadModel(model).mask.drop(Head(0, 1)), action="duplicate")
    with pytest.raises(HeadError, match=r"drops head 0\.1 and does not say whose copy"):
        duplicate_(model, alone)
    with pytest.raises(HeadError, match="does not say whose copy"), applied(model, alone):
        pass
