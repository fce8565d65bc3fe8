"""The law that everything stands on: a masked head and a removed head are the same."""

from __future__ import annotations

import pytest
import torch

from deadhead import HeadModel, PruningPlan, masked, remove_
from deadhead.surgery import POLICIES
from masks import legal_mask, random_mask
from models import BACKENDS, MODEL_TYPES, batch, kinds_of, make, outputs

GQA = ("llama", "mistral", "qwen2", "qwen3")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_mask_equals_removal(model_type, backend):
    inputs = batch()
    for seed in range(5):
        for kind in kinds_of(model_type):
            model = make(model_type, kind, backend=backend)
            mask = random_mask(HeadModel(model).mask, seed)
            dense = outputs(model, inputs)
            with masked(model, mask):
                expected = outputs(model, inputs)
            assert not torch.equal(expected, dense), "the mask does nothing"
            remove_(model, PruningPlan(mask, gqa="ungroup"))
            assert (outputs(model, inputs) - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("gqa", POLICIES)
@pytest.mark.parametrize("model_type", GQA)
def test_mask_equals_removal_under_every_gqa_policy(model_type, gqa):
    inputs = batch()
    for seed in range(5):
        model = make(model_type, "causal_lm")
        mask = legal_mask(HeadModel(model).mask, seed, gqa, group=3)
        with masked(model, mask):
            expected = outputs(model, inputs)
        cache = HeadModel(model).kv_bytes_per_token()
        remove_(model, PruningPlan(mask, gqa=gqa))
        assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
        for block, row in zip(HeadModel(model).blocks, mask.kept, strict=True):
            groups = [row[i : i + 3] for i in range(0, len(row), 3)]
            uneven = len({sum(group) for group in groups if any(group)}) > 1
            assert block.n_kv_heads == (sum(row) if uneven else sum(map(any, groups)))
            assert gqa == "ungroup" or not uneven
        if gqa == "whole_groups":
            share = mask.n_kept / mask.n_heads
            assert HeadModel(model).kv_bytes_per_token() == pytest.approx(cache * share)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_pruning_twice_equals_pruning_once(model_type):
    inputs = batch()
    once, twice = make(model_type), make(model_type)
    whole = HeadModel(once).mask
    first = random_mask(whole, 1, share=0.3)
    second = first & random_mask(whole, 2, share=0.4)
    remove_(once, PruningPlan(second, gqa="ungroup"))
    remove_(twice, PruningPlan(first, gqa="ungroup"))
    assert HeadModel(twice).mask == first
    remove_(twice, PruningPlan(second, gqa="ungroup"))
    assert HeadModel(twice).mask == second == HeadModel(once).mask
    assert (outputs(once, inputs) - outputs(twice, inputs)).abs().max() <= 1e-12


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_mask_in_original_indices_works_on_a_cut_model(model_type):
    inputs = batch()
    cut, whole = make(model_type), make(model_type)
    first = random_mask(HeadModel(whole).mask, 3, share=0.3)
    second = first & random_mask(HeadModel(whole).mask, 4, share=0.4)
    remove_(cut, PruningPlan(first, gqa="ungroup"))
    with masked(cut, second), masked(whole, second):
        assert (outputs(cut, inputs) - outputs(whole, inputs)).abs().max() <= 1e-10


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_model_without_any_head_runs_and_trains(model_type):
    model, inputs = make(model_type), batch()
    mask = HeadModel(model).mask
    with masked(model, mask.drop(*mask.heads)):
        expected = outputs(model, inputs)
    remove_(model, PruningPlan(mask.drop(*mask.heads)))
    assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
    loss = model(**inputs).loss
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
