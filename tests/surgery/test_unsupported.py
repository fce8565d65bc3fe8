"""Models that cannot be used are refused in one line that says what to do, before any change."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn
from torch.nn.utils import parametrizations

from deadhead import (
    Head,
    HeadModel,
    PruningPlan,
    applied,
    duplicate_,
    fold_,
    masked,
    register_architecture,
    remove_,
    score,
)
from deadhead.errors import UnsupportedModelError
from deadhead.models.architectures import ARCHITECTURES, Architecture, fused_by_part, fused_per_head
from deadhead.surgery import mask_
from deadhead.surgery.slicing import Cut, slice_
from models import batch, make, outputs

pytestmark = pytest.mark.usefixtures("own_architectures")


class OwnHead(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.bert, self.config, self.head = inner.bert, inner.config, nn.Linear(24, 3)

    def forward(self, input_ids, **inputs):
        return self.head(self.bert(input_ids).last_hidden_state[:, 0])


def prompted(model):
    peft = pytest.importorskip("peft")
    learned = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    return peft.get_peft_model(model, learned)


def int8(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def parametrized(model):
    parametrizations.weight_norm(model.bert.encoder.layer[1].attention.self.key)
    return model


def replaced(model):
    model.bert.encoder.layer[1].attention.output.dense = nn.Identity()
    return model


def layer_compiled(model):
    layers = model.bert.encoder.layer
    layers[1] = torch.compile(layers[1], backend="eager")
    return model


def without_layers(model):
    model.bert.encoder.layer = nn.ModuleList()
    return model


WRAPPED = {
    "learned prompts": (prompted, r"give the model inside: model\.get_base_model\(\)"),
    "an own head": (OwnHead, r"model inside: model\.bert \(a cut of it is a cut of this\);"),
    "dynamic int8": (int8, "layer.0.*quantize or adapt afterwards"),
    "DataParallel": (nn.DataParallel, "give that one: model.module"),
    "a compiled model": (lambda m: torch.compile(m, backend="eager"), "compile afterwards"),
    "a compiled layer": (layer_compiled, "compile afterwards"),
    "a parametrized projection": (parametrized, "layer.1.*remove parametrizations"),
    "a replaced projection": (replaced, "layer.1.attention.output.dense is a .*Identity"),
    "no layers": (without_layers, "has no blocks at 'encoder.layer"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", WRAPPED)
def test_wrapped_and_changed_models_are_refused(how):
    wrap, match = WRAPPED[how]
    model = wrap(make("bert", dtype=torch.float32))
    with pytest.raises(UnsupportedModelError, match=match) as refused:
        HeadModel(model)
    assert "\n" not in str(refused.value)


def test_the_model_under_a_head_of_ones_own_is_cut_in_its_place():
    own, plain = OwnHead(make("bert")), make("bert")
    remove_(own.bert, GROUP)
    remove_(plain.bert, GROUP)
    assert sum(p.numel() for p in own.bert.parameters()) == sum(
        p.numel() for p in plain.bert.parameters()
    )
    with torch.no_grad():
        expected = own.head.double()(plain.bert(batch()["input_ids"]).last_hidden_state[:, 0])
        assert torch.equal(own(batch()["input_ids"]), expected)


def test_divided_weights_are_refused(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/here", rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        divided = torch.distributed.fsdp.fully_shard(make("bert"), mesh=mesh)
        with pytest.raises(UnsupportedModelError, match="FSDP has divided its weights; load the"):
            HeadModel(divided)
    finally:
        torch.distributed.destroy_process_group()


QKV = "self_attn.qkv_proj"
PHI3 = Architecture(
    "phi3",
    "layers.*",
    "self_attn",
    QKV,
    QKV,
    QKV,
    "self_attn.o_proj",
    layout=fused_by_part,
)


def phi3():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2}
    config = hf.Phi3Config(
        **sizes, vocab_size=40, num_hidden_layers=2, intermediate_size=20, pad_token_id=0
    )
    config.eos_token_id = config.bos_token_id = None
    return hf.Phi3ForCausalLM(config).double().eval()


def test_a_fused_layout_with_grouped_keys_is_counted_by_its_weights():
    register_architecture(PHI3)
    model = phi3()
    view = HeadModel(model)
    assert [(b.n_heads, b.n_kv_heads, b.head_dim) for b in view.blocks] == [(6, 2, 4)] * 2
    for criterion in ("magnitude", "gradient_norm"):
        scores = score(model, [batch()], criterion, loss="logit_norm")
        assert all(np.isfinite(row).all() and len(row) == 6 for row in scores.values)
    weights = model.model.layers[0].self_attn.qkv_proj.weight
    assert torch.equal(view.head_weights(Head(0, 4))["value"], weights[36:40])
    with torch.no_grad():
        view.head_weights(Head(0, 4))["value"].zero_()
    assert score(model, [], "magnitude").ranking()[:3] == [Head(0, i) for i in (3, 4, 5)]
    plan = PruningPlan(view.mask.drop(*(Head(0, i) for i in range(3))))
    with pytest.raises(UnsupportedModelError, match=r"add them as shrink=.*action mask"):
        remove_(model, plan)
    with masked(model, plan):
        expected = outputs(model, batch())
    mask_(model, plan.mask)
    assert torch.equal(outputs(model, batch()), expected)


@pytest.mark.parametrize("kv_heads", [(0, 1), (0,), (0, 0, 1), (1, 1)])
def test_a_fused_projection_is_cut_head_by_head(kv_heads):
    register_architecture(PHI3)
    view = HeadModel(phi3())
    block = view.blocks[0]
    q, k, v = (w.unflatten(0, (-1, 4)) for w in block.query.weight.detach().split((24, 8, 8)))
    slice_(block, Cut((1, 2, 5), kv_heads))
    kept = torch.cat([q[[1, 2, 5]], k[list(kv_heads)], v[list(kv_heads)]])
    assert torch.equal(block.query.weight, kept.flatten(0, 1))


def falcon(**options):
    query = "self_attention.query_key_value"
    register_architecture(
        Architecture(
            "falcon", "h.*", "self_attention", *[query] * 3, "self_attention.dense", **options
        )
    )
    config = hf.FalconConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=6
    )
    return hf.FalconForCausalLM(config).eval()


def wrong_dim(model_type, **changes):
    from dataclasses import replace

    register_architecture(replace(ARCHITECTURES[model_type][0], **changes))
    return make(model_type)


CONTRADICTED = {
    "multi-query in a layout of one key per head": lambda: falcon(layout=fused_per_head),
    "multi-query in three projections": lambda: falcon(),
    "three projections in a fused layout": lambda: (
        wrong_dim("gpt2", layout=fused_per_head) and wrong_dim("llama", layout=fused_by_part)
    ),
    "an attribute that is not the head size": lambda: wrong_dim("bert", head_dim="layer_idx"),
    "a head size that is absent": lambda: wrong_dim("bert", head_dim="nothing"),
    "a head size that does not divide": lambda: wrong_dim("bert", head_dim="all_head_sizes"),
    "a path that is absent": lambda: wrong_dim("bert", query="attention.self.q"),
}


@pytest.mark.parametrize("how", CONTRADICTED)
def test_records_that_the_weights_contradict_are_refused(how):
    model = CONTRADICTED[how]()
    with pytest.raises(UnsupportedModelError, match="record"):
        HeadModel(model)


def test_modules_that_claim_other_heads_than_their_weights_have_are_refused():
    model = remove_(make("bert"), ["0.1"])
    other = make("bert")
    attention = other.bert.encoder.layer[0].attention.self
    attention.deadhead_heads = model.bert.encoder.layer[0].attention.self.deadhead_heads
    with pytest.raises(UnsupportedModelError, match="its weights have 6 heads"):
        HeadModel(other)


@pytest.fixture
def offloaded():
    """A model whose second block is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        make("llama", "causal_lm", dtype=torch.float32).save_pretrained(folder)
        places = {f"model.layers.{n}": "cpu" for n in (0, 2)}
        names = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
        yield hf.LlamaForCausalLM.from_pretrained(
            folder,
            offload_folder=f"{folder}/offload",
            device_map={"model.layers.1": "disk", **places, **dict.fromkeys(names, "cpu")},
        )


GROUP = ("1.0", "1.1", "1.2")
COPIES = {Head(1, 0): Head(1, 1)}


def copied(model, action):
    mask = HeadModel(model).mask.drop(*COPIES)
    return PruningPlan(mask, COPIES, action=action, gqa="ungroup")


CHANGES = {
    "remove_": lambda m: remove_(m, GROUP),
    "mask_": lambda m: mask_(m, GROUP),
    "duplicate_": lambda m: duplicate_(m, copied(m, "duplicate")),
    "fold_": lambda m: fold_(m, copied(m, "fold")),
    "applied": lambda m: applied(m, copied(m, "duplicate")).__enter__(),
    "magnitude": lambda m: score(m, [], "magnitude"),
    "output_norm": lambda m: score(m, [batch()], "output_norm"),
    "reconstruction": lambda m: score(m, [batch()], "reconstruction"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", CHANGES)
def test_weights_that_are_not_in_memory_are_neither_read_nor_changed(offloaded, how):
    inputs = {k: v for k, v in batch().items() if k != "labels"}
    before = outputs(offloaded, inputs)
    with pytest.raises(UnsupportedModelError, match=r"layers\.1.*not in memory"):
        CHANGES[how](offloaded)
    assert torch.equal(outputs(offloaded, inputs), before)
    assert not hasattr(offloaded.config, "quantization_config")


@pytest.mark.filterwarnings("ignore")
def test_offloaded_models_are_masked_and_scored_by_their_outputs(offloaded):
    inputs = batch()
    plain = make("llama", "causal_lm", dtype=torch.float32)
    with masked(offloaded, GROUP), masked(plain, GROUP):
        assert torch.allclose(outputs(offloaded, inputs), outputs(plain, inputs), atol=1e-5)
    found, expected = (score(m, [inputs], "attention_entropy") for m in (offloaded, plain))
    for a, b in zip(found.values, expected.values, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("how", ["remove_", "mask_", "duplicate_", "fold_"])
def test_models_on_meta_are_not_changed(how):
    config = make("llama", "causal_lm").config
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(config)
    with pytest.raises(UnsupportedModelError, match="not in memory"):
        CHANGES[how](model)
    assert HeadModel(model).mask.n_kept == 18
