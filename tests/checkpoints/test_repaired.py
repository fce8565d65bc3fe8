"""Repaired checkpoints: an output bias that the model type lacks is saved, loaded and checked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from copies import plan_for
from deadhead import HeadModel, PruningPlan, remove_
from deadhead.errors import CheckpointError
from deadhead.models.manifest import manifest_of
from deadhead.repair import apply_repaired_, fit, repair_
from deadhead.scoring import Scorer
from masks import random_mask
from models import AUTO, DECODERS, MODEL_TYPES, batch, kinds_of, make, outputs

BARE = ("mistral", "qwen2", "qwen3")  # their output projections have no bias
CALIBRATION = batch((9, 6, 4, 7, 5), seed=5)
WITH_BIAS = "least_squares:own=0:bias=true"


def repair(model, plan, name=WITH_BIAS):
    view = HeadModel(model)
    moments = Scorer(view, [CALIBRATION], None, moments=True, loss="kl").moments
    plan = replace(plan, repair=name)
    apply_repaired_(model, plan, fit(view, plan, moments))
    return model


def repaired_model(model_type, kind="classification", seed=0, *, action="remove"):
    model = make(model_type, kind, dtype=torch.float32)
    mask = random_mask(HeadModel(model).mask, seed)  # seed 0: block 0 loses every head
    return repair(model, PruningPlan(mask, action=action, gqa="ungroup"))


def loaded(model, folder, kind="classification"):
    model.save_pretrained(folder)
    backend = model.config._attn_implementation
    return AUTO[kind].from_pretrained(folder, attn_implementation=backend)


def same_weights(one, other):
    a, b = one.state_dict(), other.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_plain_transformers_loads_it_bit_for_bit(model_type, tmp_path):
    for kind in kinds_of(model_type):
        for seed in (0, 1):
            model = repaired_model(model_type, kind, seed)
            again = loaded(model, tmp_path / f"{kind}{seed}", kind)
            assert torch.equal(outputs(again, batch()), outputs(model, batch()))
            assert same_weights(again, model)
            assert HeadModel(again).mask == HeadModel(model).mask
            assert [b.original for b in HeadModel(again).blocks] == [
                b.original for b in HeadModel(model).blocks
            ]


@pytest.mark.parametrize("model_type", BARE)
def test_a_masked_or_folded_model_keeps_its_new_bias(model_type, tmp_path):
    masked = repaired_model(model_type, action="mask")
    whole = HeadModel(masked).mask
    assert whole.n_kept == whole.n_heads
    fold = make(model_type, dtype=torch.float32)
    folded = repair(fold, plan_for(fold, 1, action="fold"))
    for name, model in (("masked", masked), ("folded", folded)):
        again = loaded(model, tmp_path / name)
        assert torch.equal(outputs(again, batch()), outputs(model, batch()))
        assert HeadModel(again).mask == HeadModel(model).mask


def test_only_blocks_that_got_a_bias_say_so(tmp_path):
    model = make("qwen2", dtype=torch.float32)
    mask = HeadModel(model).mask
    gone = [h for h in mask.heads if h.block == 1 and h.index < 3]
    repair(model, PruningPlan(mask.drop(*gone)), "bias")
    (entry,) = manifest_of(HeadModel(model)).blocks.items()
    assert (entry[0], entry[1]["output_bias"]) == ("1", True)
    again = loaded(model, tmp_path)
    biases = [b.output.bias is not None for b in HeadModel(again).blocks]
    assert biases == [False, True, False]
    bert = repaired_model("bert")
    assert not any("output_bias" in e for e in manifest_of(HeadModel(bert)).blocks.values())


@pytest.mark.parametrize("model_type", BARE)
def test_it_is_cut_and_repaired_again_after_loading(model_type, tmp_path):
    model = loaded(repaired_model(model_type, seed=1), tmp_path / "one")
    first = HeadModel(model).mask
    mask = first & random_mask(first, 2, share=0.3)
    repair_(model, [CALIBRATION], PruningPlan(mask, gqa="ungroup", repair=WITH_BIAS))
    again = loaded(model, tmp_path / "two")
    assert HeadModel(again).mask == mask
    assert torch.equal(outputs(again, batch()), outputs(model, batch()))
    cut = again
    less = mask.drop(mask.heads[-1])
    remove_(cut, PruningPlan(less, gqa="ungroup"))  # without repair: the old bias stays
    assert any(b.output.bias is not None for b in HeadModel(cut).blocks)
    last = loaded(cut, tmp_path / "three")
    assert HeadModel(last).mask == less
    assert torch.equal(outputs(last, batch()), outputs(cut, batch()))


@pytest.mark.parametrize("model_type", BARE)
def test_saving_again_writes_the_same_bytes(model_type, tmp_path):
    again = loaded(repaired_model(model_type), tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_backbone_takes_its_bias_along(tmp_path):
    model = repaired_model("qwen2")
    model.save_pretrained(tmp_path)
    base = AUTO["base"].from_pretrained(tmp_path)
    assert torch.equal(outputs(base, batch()), outputs(model.base_model, batch()))


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_loaded_decoder_generates_what_it_did_before(model_type, tmp_path):
    model = repaired_model(model_type, "causal_lm")
    again = loaded(model, tmp_path, "causal_lm")
    ids = batch((5,))["input_ids"]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(again.generate(ids, **options), model.generate(ids, **options))


def test_the_new_bias_trains_and_casts(tmp_path):
    model = loaded(repaired_model("qwen2"), tmp_path)
    model(**batch()).loss.backward()
    for block in HeadModel(model).blocks:
        assert block.output.bias.grad.abs().sum() > 0
    assert HeadModel(model.half()).blocks[0].output.bias.dtype == torch.float16


def edit(folder, change):
    """Change the deadhead entry of a config."""
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"]["blocks"])
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("block", (0, 1))  # 0 has lost every head
def test_weights_without_the_bias_that_the_config_names_are_refused(block, tmp_path):
    repaired_model("qwen2").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(f"model.layers.{block}.self_attn.o_proj.bias")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"lack .*layers\.{block}.*o_proj\.bias") as caught:
        AUTO["classification"].from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_with_a_bias_that_the_config_does_not_name_are_refused(tmp_path):
    repaired_model("qwen2").save_pretrained(tmp_path)
    edit(tmp_path, lambda blocks: blocks["1"].pop("output_bias"))
    with pytest.raises(CheckpointError, match=r"hold .*layers\.1.*o_proj\.bias") as caught:
        AUTO["classification"].from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ("yes", 1, None, []))
def test_a_damaged_entry_is_refused(value, tmp_path):
    repaired_model("qwen2").save_pretrained(tmp_path)
    edit(tmp_path, lambda blocks: blocks["1"].update(output_bias=value))
    with pytest.raises(
        CheckpointError, match=r"block 1 .*\(output_bias is .*, not true or"
    ) as caught:
        AUTO["classification"].from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
