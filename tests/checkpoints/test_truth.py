"""What a config says about removed heads is what the modules hold, however the two are handled."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, remove_
from deadhead.errors import CheckpointError
from deadhead.models.manifest import claim_of
from models import AUTO, CONFIGS, MODEL_TYPES, batch, make, outputs

KINDS = AUTO["classification"]


def cut(model, *heads):
    view = HeadModel(model)
    dropped = [h for h in view.mask.heads if (h.block, h.index) in heads]
    return remove_(model, PruningPlan(view.mask.drop(*dropped), gqa="ungroup"))


def made(model_type="bert", *heads):
    return cut(make(model_type, dtype=torch.float32), *heads)


def saved(model, folder, kind="classification"):
    model.save_pretrained(folder)
    return AUTO[kind].from_pretrained(folder, attn_implementation=model.config._attn_implementation)


def agree(model, folder, kind="classification"):
    """A saved model comes back with the same heads and logits, and says so."""
    again = saved(model, folder, kind)
    assert HeadModel(again).mask == HeadModel(model).mask
    assert torch.equal(outputs(again, batch()), outputs(model.eval(), batch()))
    assert (claim_of(again) is None) == (not HeadModel(again).mask.dropped)
    return again


def from_config(model, folder):
    model.save_pretrained(folder)
    from transformers import AutoConfig

    return KINDS.from_config(AutoConfig.from_pretrained(folder))


def from_live_config(model, folder):
    return KINDS.from_config(model.config)


def from_copied_config(model, folder):
    return KINDS.from_config(copy.deepcopy(model.config))


def from_dict(model, folder):
    return KINDS.from_config(type(model.config).from_dict(model.config.to_dict()))


def fewer_layers(model, folder):
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 1
    return KINDS.from_config(config)


DENSE = (from_config, from_live_config, from_copied_config, from_dict, fewer_layers)


@pytest.mark.parametrize("build", DENSE)
@pytest.mark.parametrize("looked_at", (True, False))
def test_a_dense_model_made_from_the_config_of_a_cut_model_is_dense(build, looked_at, tmp_path):
    model = made("bert", (0, 1), (2, 0))
    dense = build(model, tmp_path / "cut")
    if looked_at:
        assert not HeadModel(dense).mask.dropped
        assert claim_of(dense) is None
        assert "quantization_config" not in dense.config.to_dict()
    agree(dense, tmp_path / "dense")
    agree(model, tmp_path / "again")
    cut(dense, (0, 3))
    agree(dense, tmp_path / "three")
    agree(model, tmp_path / "four")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_model_type_survives_the_config_of_a_cut_model(model_type, tmp_path):
    dense = from_config(made(model_type, (0, 0), (0, 1)), tmp_path / "cut")
    torch.manual_seed(0)
    agree(dense.eval(), tmp_path / "dense")


@pytest.mark.parametrize("first", ("a", "b"))
def test_two_models_may_share_one_config(first, tmp_path):
    config = CONFIGS["bert"]()
    pair = {name: KINDS.from_config(config) for name in "ab"}
    views = {name: HeadModel(model) for name, model in pair.items()}
    cut(views[first].model, (0, 1))
    second = pair["b" if first == "a" else "a"]
    agree(second, tmp_path / "untouched")
    cut(second, (1, 2), (1, 3))
    for name, model in pair.items():
        agree(model, tmp_path / name)


def test_a_model_and_its_base_go_on_sharing_a_config(tmp_path):
    model = make("bert", dtype=torch.float32)
    cut(model.base_model, (0, 1))
    agree(model, tmp_path / "one")
    cut(model, (0, 2))
    agree(model, tmp_path / "two")
    cut(model.base_model, (2, 2))
    agree(model, tmp_path / "three")
    agree(model.base_model, tmp_path / "base", "base")


@pytest.mark.parametrize("copied", (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))))
def test_a_copy_is_cut_without_the_original(copied, tmp_path):
    model = made("bert", (0, 1))
    other = copied(model)
    assert claim_of(other).blocks == claim_of(model).blocks
    agree(other, tmp_path / "copy")
    cut(other, (1, 1))
    cut(model, (2, 1))
    agree(other, tmp_path / "one")
    agree(model, tmp_path / "two")


def test_layers_removed_by_hand_are_seen_when_it_is_saved(tmp_path):
    model = made("bert", (0, 1), (2, 0), (2, 1))
    del model.base_model.encoder.layer[0]
    model.config.num_hidden_layers = 2
    assert set(model.config.to_dict()["quantization_config"]["blocks"]) == {"1"}
    agree(model, tmp_path)


def test_the_config_alone_can_be_written_and_printed(tmp_path):
    model = made("bert", (0, 1))
    entry = json.loads(model.config.to_json_string())["quantization_config"]
    assert entry == dict(claim_of(model)) == claim_of(model).to_dict()
    assert set(entry) == {"blocks", "format", "quant_method"}
    assert "deadhead" in repr(model.config)
    model.config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == entry


def test_a_config_does_not_keep_its_model_alive():
    import gc
    import weakref

    model = made("bert", (0, 1))
    config, alive = model.config, weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert config.quantization_config.to_dict()["blocks"]["0"]["heads"] == [0, 2, 3, 4, 5]


def test_a_live_config_loads_its_own_checkpoint(tmp_path):
    model = made("bert", (0, 1))
    model.save_pretrained(tmp_path)
    again = KINDS.from_pretrained(tmp_path, config=model.config)
    assert HeadModel(again).mask == HeadModel(model).mask
    cut(again, (1, 1))
    assert HeadModel(model).mask != HeadModel(again).mask
    agree(model, tmp_path / "model")
    agree(again, tmp_path / "again")


def test_dense_weights_say_that_they_load_dense(tmp_path, caplog):
    saved(from_config(made("bert", (0, 1)), tmp_path / "cut"), tmp_path / "dense")
    assert [r.getMessage() for r in caplog.records if "dense" in r.getMessage()]


def test_part_of_a_dense_model_is_no_dense_model(tmp_path):
    from safetensors.torch import load_file, save_file

    model = made("bert", (0, 1), (1, 1))
    from_config(model, tmp_path).save_pretrained(tmp_path / "dense")
    tensors = load_file(tmp_path / "dense" / "model.safetensors")
    tensors.update(
        {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if "layer.1." in k}
    )
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="take both files from the same checkpoint"):
        KINDS.from_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
def test_peft_saves_what_the_model_is(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    model = made("bert", (0, 1))
    model.save_pretrained(tmp_path / "cut")
    adapted = get_peft_model(model, LoraConfig(target_modules=["query"], r=2))
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    agree(merged, tmp_path / "merged")
    base = KINDS.from_pretrained(tmp_path / "cut")
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    assert HeadModel(again).mask == HeadModel(merged).mask


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded:UserWarning")
def test_a_cut_checkpoint_loads_offloaded_and_saves_again(tmp_path):
    model = cut(make("llama", "causal_lm", dtype=torch.float32), (1, 0), (1, 1))
    model.save_pretrained(tmp_path / "cut")
    names = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    places = dict.fromkeys((*names, "model.layers.0", "model.layers.2"), "cpu")
    offloaded = AUTO["causal_lm"].from_pretrained(
        tmp_path / "cut",
        device_map={**places, "model.layers.1": "disk"},
        offload_folder=tmp_path / "disk",
    )
    assert torch.equal(outputs(offloaded, batch()), outputs(model, batch()))
    offloaded.save_pretrained(tmp_path / "again")
    again = AUTO["causal_lm"].from_pretrained(tmp_path / "again")
    assert HeadModel(again).mask == HeadModel(model).mask == HeadModel(offloaded).mask
    assert not HeadModel(again).mask.keeps(Head(1, 0))
    assert torch.equal(outputs(again, batch()), outputs(model, batch()))
