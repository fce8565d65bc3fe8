"""Removal: what is refused, what is left alone, what moves along."""

from __future__ import annotations

import copy

import pytest
import torch

from deadhead import Head, HeadMask, HeadModel, PruningPlan, masked, remove_
from deadhead.errors import GroupError, HeadError, UnknownNameError, UnsupportedModelError
from masks import random_mask
from models import DECODERS, MODEL_TYPES, batch, make, outputs


def plan_without(model, *heads, **options):
    return PruningPlan(HeadModel(model).mask.drop(*heads), **options)


def test_half_a_group_is_refused_before_anything_is_cut():
    model = make("llama")
    before = copy.deepcopy(model.state_dict())
    plan = plan_without(model, Head(0, 0), Head(0, 1), Head(0, 2), Head(1, 4))
    with pytest.raises(GroupError, match=r"head 1\.4.*shares key/value head 1 with head 1\.3"):
        remove_(model, plan)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_unequal_groups_are_refused_by_equalize():
    model = make("qwen2")
    with pytest.raises(GroupError, match="would keep 2, 3 query heads"):
        remove_(model, plan_without(model, Head(0, 0), gqa="equalize"))


def test_ungroup_copies_keys_only_where_groups_become_uneven():
    model, inputs = make("llama"), batch()
    whole = HeadModel(model).mask
    gone = [Head(0, 1), *(Head(1, i) for i in (0, 1, 2)), Head(2, 0), Head(2, 5)]
    twin = make("llama")
    with masked(twin, whole.drop(*gone)):
        expected = outputs(twin, inputs)
    remove_(model, PruningPlan(whole.drop(*gone), gqa="ungroup"))
    assert [(b.n_heads, b.n_kv_heads) for b in HeadModel(model).blocks] == [(5, 5), (3, 1), (4, 2)]
    assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
    before = sum(p.numel() for p in twin.parameters())
    remove_(twin, PruningPlan(whole.drop(*gone[1:]), gqa="ungroup"))
    assert sum(p.numel() for p in twin.parameters()) < before


def test_an_unknown_policy_names_the_nearest():
    model = make("bert")
    with pytest.raises(UnknownNameError, match="did you mean 'ungroup'"):
        remove_(model, plan_without(model, gqa="ungruop"))


def test_a_plan_that_keeps_a_lost_head_is_refused():
    model = make("bert")
    whole = HeadModel(model).mask
    remove_(model, plan_without(model, Head(1, 2)))
    with pytest.raises(HeadError, match=r"keeps head 1\.2, which has been removed"):
        remove_(model, PruningPlan(whole))


def test_a_plan_for_another_model_is_refused():
    with pytest.raises(HeadError, match="the mask is for blocks of"):
        remove_(make("bert"), PruningPlan(HeadMask.full([6, 6])))


def test_an_unknown_model_type_comes_with_the_record_to_fill_in():
    with pytest.raises(UnsupportedModelError, match=r"register_architecture\(Architecture\("):
        HeadModel(torch.nn.Linear(2, 2))


def test_bloom_that_bypasses_its_projection_is_refused():
    model = make("bloom")
    model.config.pretraining_tp, model.config.slow_but_exact = 2, True
    with pytest.raises(UnsupportedModelError, match="slow_but_exact = False"):
        HeadModel(model)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_removing_nothing_changes_nothing(model_type):
    model, inputs = make(model_type), batch()
    before, config = outputs(model, inputs), model.config.to_json_string()
    remove_(model, plan_without(model))
    assert torch.equal(outputs(model, inputs), before)
    assert model.config.to_json_string() == config


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_config_of_other_models_is_not_touched(model_type):
    model, twin = make(model_type), make(model_type)
    heads = model.config.num_attention_heads
    mask = random_mask(HeadModel(model).mask, 0)
    remove_(model, PruningPlan(mask, gqa="ungroup"))
    assert model.config.num_attention_heads == heads == twin.config.num_attention_heads
    assert not hasattr(twin.config, "quantization_config")
    assert set(model.config.quantization_config.blocks) == {
        str(b) for b, row in enumerate(mask.kept) if not all(row)
    }


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_parameters_shrink_by_what_the_heads_held(model_type):
    model = make(model_type)
    view = HeadModel(model)
    block = view.blocks[0]
    gone = [Head(0, i) for i in range(block.shape.group_size)]
    held = {}
    for head in gone:
        for part, weight in view.head_weights(head).items():
            held[weight.data_ptr(), part] = weight.numel()  # shared keys and values count once
    before = sum(p.numel() for p in model.parameters())
    remove_(model, plan_without(model, *gone))
    assert before - sum(p.numel() for p in model.parameters()) == sum(held.values())


@pytest.mark.parametrize("model_type", DECODERS)
def test_generation_with_cache_equals_without(model_type):
    model = make(model_type, "causal_lm")
    remove_(model, PruningPlan(random_mask(HeadModel(model).mask, 0), gqa="ungroup"))
    ids = batch((5, 5))["input_ids"]
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=True, **options)
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
    assert torch.equal(cached, plain)
    assert cached.shape == (2, 13)


@pytest.mark.parametrize("model_type", DECODERS)
def test_beam_search_runs_on_a_model_whose_first_block_is_empty(model_type):
    model = make(model_type, "causal_lm")
    mask = HeadModel(model).mask
    remove_(model, PruningPlan(mask.drop(*[h for h in mask.heads if h.block == 0])))
    ids = batch((5, 5))["input_ids"]
    options = {"max_new_tokens": 4, "num_beams": 3, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("model_type", ("bert", "gpt2", "bloom", "llama"))
def test_a_cut_model_can_be_copied_cast_and_frozen(model_type):
    model, inputs = make(model_type), batch()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    remove_(model, PruningPlan(random_mask(HeadModel(model).mask, 0), gqa="ungroup"))
    assert not any(p.requires_grad for p in model.parameters())
    twin = copy.deepcopy(model)
    assert torch.equal(outputs(twin, inputs), outputs(model, inputs))
    assert outputs(twin.float(), inputs).dtype == torch.float32


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_model_with_an_empty_block_can_be_pickled(model_type, tmp_path):
    model, inputs = make(model_type), batch()
    mask = HeadModel(model).mask
    remove_(model, PruningPlan(mask.drop(*[h for h in mask.heads if h.block == 0])))
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))
    assert HeadModel(loaded).mask == HeadModel(model).mask


def test_a_plan_to_mask_is_not_cut():
    model = make("bert")
    with pytest.raises(HeadError, match="the plan's action is 'mask'"):
        remove_(model, plan_without(model, Head(0, 0), action="mask"))


def test_ungrouped_copies_that_have_been_trained_apart_are_cut_apart():
    model, inputs = make("llama"), batch()
    remove_(model, plan_without(model, Head(0, 0), gqa="ungroup"))
    with torch.no_grad():
        for name in ("k_proj", "v_proj"):
            weight = getattr(model.model.layers[0].self_attn, name).weight
            weight.add_(torch.randn_like(weight))
    mask = HeadModel(model).mask.drop(Head(0, 1))
    with masked(model, mask):
        expected = outputs(model, inputs)
    remove_(model, PruningPlan(mask))
    assert (outputs(model, inputs) - expected).abs().max() <= 1e-10


def test_attention_maps_of_a_cut_model_can_be_asked_for():
    model = make("bert", backend="eager")
    mask = HeadModel(model).mask
    remove_(model, PruningPlan(mask.drop(*[h for h in mask.heads if h.block == 0], Head(1, 1))))
    inputs = batch()
    maps = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        output_attentions=True,
    ).attentions
    assert [m.shape[1] for m in maps] == [0, 5, 6]
