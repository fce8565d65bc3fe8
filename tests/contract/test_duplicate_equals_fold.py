"""The law of folding: the logits of duplication, with fewer heads."""

from __future__ import annotations

import pytest
import torch

from copies import plan_for
from deadhead import HeadModel, PruningPlan
from deadhead.surgery import applied, apply_, duplicate_, fold_
from models import MODEL_TYPES, batch, kinds_of, make, outputs

GQA = ("llama", "mistral", "qwen2", "qwen3")


def check(model_type, kind, seed, *, backend="sdpa", unit="head"):
    inputs = batch()
    both = [make(model_type, kind, backend=backend) for _ in range(2)]
    dense = outputs(both[0], inputs)
    plan = plan_for(both[0], seed, unit=unit)
    fold = PruningPlan(plan.mask, plan.copies, "fold", plan.gqa, plan.slope)
    with applied(both[0], plan):
        expected = outputs(both[0], inputs)
    with applied(both[0], fold):
        assert torch.equal(outputs(both[0], inputs), expected)
    assert torch.equal(outputs(both[0], inputs), dense), "the context left something behind"
    assert (expected - dense).abs().max() > 1e-6, "duplication does nothing"
    duplicate_(both[0], plan)
    assert torch.equal(outputs(both[0], inputs), expected)
    fold_(both[1], fold)
    assert (outputs(both[1], inputs) - expected).abs().max() <= 1e-10
    assert HeadModel(both[1]).mask == plan.mask
    small, big = (sum(p.numel() for p in m.parameters()) for m in (both[1], both[0]))
    shared = any(b.n_heads != b.n_kv_heads for b in HeadModel(both[0]).blocks)
    assert small < big or (shared and unit == "head")  # uneven groups: each head its own keys


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=pytest.mark.slow), "sdpa"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_duplicate_equals_fold(model_type, backend):
    for seed in range(3):
        for kind in kinds_of(model_type):
            check(model_type, kind, seed, backend=backend)


@pytest.mark.parametrize("model_type", GQA)
def test_duplicate_equals_fold_for_whole_key_value_groups(model_type):
    check(model_type, "causal_lm", 4, unit="kv")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_context_gives_weights_back_bit_for_bit_also_after_an_error(model_type):
    model = make(model_type, "base")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = {name: len(m._forward_pre_hooks) for name, m in model.named_modules()}
    for action in ("duplicate", "fold", "mask", "remove"):
        plan = plan_for(model, 1, action=action)
        with pytest.raises(RuntimeError, match="stop"), applied(model, plan):
            raise RuntimeError("stop")
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert hooks == {name: len(m._forward_pre_hooks) for name, m in model.named_modules()}
    assert not any(hasattr(b.attention, "deadhead_heads") for b in HeadModel(model).blocks)


@pytest.mark.parametrize("action", ["mask", "remove"])
def test_other_actions_do_not_look_at_copies(action):
    inputs, model = batch(), make("bert")
    plan = plan_for(model, 1, action=action)
    with applied(model, plan):
        expected = outputs(model, inputs)
    apply_(model, plan)
    assert (outputs(model, inputs) - expected).abs().max() <= 1e-10
    assert HeadModel(model).mask == (plan.mask if action == "remove" else plan.mask.full((6,) * 3))
