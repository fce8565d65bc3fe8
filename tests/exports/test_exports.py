"""A cut model leaves as an ordinary one, which a process without deadhead loads and runs alike."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tests.models import batch, make, outputs

from deadhead import HeadModel, PruningPlan, remove_
from deadhead.derivation.laws import draw_masks
from deadhead.derivation.tiny import default_config, tiny_config
from deadhead.errors import (
    CheckpointError,
    OutputExistsError,
    UnknownNameError,
    UnsupportedModelError,
)
from deadhead.exports import export, padded, uniform
from deadhead.exports.verify import check_export, plain_trial
from deadhead.surgery.slicing import add_output_bias_

pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn

WRITTEN = ("bert", "albert", "opt", "gpt2", "bloom", "llama")
DERIVED = ("t5", "olmo2", "gpt_oss", "swin", "deepseek_v3")


def cut(model, seed=3):
    [mask] = draw_masks(HeadModel(model), 1, seed=seed)
    return remove_(model, PruningPlan(mask, gqa="equalize"))


def tiny(model_type):
    return hf.AutoModel.from_config(tiny_config(default_config(model_type))).eval()


def one_group_less(model):
    """Remove the first key/value head, and its queries, of every block."""
    blocks = HeadModel(model).blocks
    return remove_(model, [(i, h) for i, b in enumerate(blocks) for h in range(b.shape.group_size)])


@pytest.mark.parametrize("model_type", WRITTEN)
def test_padded_gives_the_same_and_has_every_head(model_type):
    model = cut(make(model_type))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = padded(model)
    assert HeadModel(whole).mask.n_kept == HeadModel(model).mask.n_heads
    assert not hasattr(whole.config, "quantization_config")
    torch.testing.assert_close(
        outputs(whole, batch()), outputs(model, batch()), rtol=1e-5, atol=1e-6
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("model_type", DERIVED)
def test_padded_of_derived_types(model_type, tmp_path):
    made = export(cut(tiny(model_type)), tmp_path / "plain")
    assert made.agreement.difference < 1e-5


@pytest.mark.parametrize("model_type", ["qwen2", pytest.param("mistral", marks=pytest.mark.slow)])
def test_uniform_is_a_plain_smaller_model(model_type, tmp_path):
    model = one_group_less(make(model_type, "causal_lm", dtype=torch.float32))
    made = export(model, tmp_path / "plain", format="uniform")
    assert made.agreement.difference < 1e-5
    assert made.agreement.tokens
    config = json.loads((tmp_path / "plain/config.json").read_text())
    assert "quantization_config" not in config
    block = HeadModel(model).blocks[0]
    assert config["num_attention_heads"] == block.n_heads
    sizes = {n: t.shape for n, t in model.state_dict().items()}
    assert {n: t.shape for n, t in uniform(model).state_dict().items()} == sizes


def test_what_a_repair_added_goes_where_the_config_has_a_place():
    for model_type, has_place in (("llama", True), ("qwen3", True), ("mistral", False)):
        model = cut(make(model_type))
        view = HeadModel(model)
        for block in view.blocks:
            add_output_bias_(block)
            block.output.get_parameter("bias").data.normal_()
        view.refresh()
        if has_place:
            found = outputs(padded(model), batch())
            torch.testing.assert_close(found, outputs(model, batch()), rtol=1e-5, atol=1e-6)
        else:
            with pytest.raises(UnsupportedModelError, match="no place for; prune with"):
                padded(model)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [("bert", "hidden size"), ("bloom", "ALiBi slopes"), ("gpt2", "divisible")],
)
def test_uniform_is_refused_with_the_reason(model_type, reason, tmp_path):
    with pytest.raises(UnsupportedModelError, match=rf"{reason}.*export it as 'padded'"):
        export(one_group_less(make(model_type)), tmp_path / "plain", format="uniform")
    assert not list(tmp_path.iterdir())


def test_blocks_that_differ_are_no_uniform_model():
    model = make("mistral")
    remove_(model, [(0, h) for h in range(HeadModel(model).blocks[0].shape.group_size)])
    with pytest.raises(UnsupportedModelError, match=r"differ in their heads.*--scope per_block"):
        uniform(model)


def test_an_export_that_computes_something_else_is_refused(tmp_path):
    model = cut(make("opt"))
    padded(model).save_pretrained(tmp_path)
    assert check_export(plain_trial(model), tmp_path).difference < 1e-5
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("v_proj.weight"))
    weights[name] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="outputs differ by"):
        check_export(plain_trial(model), tmp_path)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="does not load without deadhead"):
        check_export(plain_trial(model), tmp_path)


def test_bad_arguments(tmp_path):
    model = cut(make("bert"))
    with pytest.raises(UnknownNameError, match="padded"):
        export(model, tmp_path / "new", format="paded")
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputExistsError):
        export(model, tmp_path)
