"""Tiny random models of any type, and inputs that run their attention."""

import copy

import pytest
import torch

from deadhead.derivation.exercises import attention_modules, exercises, not_exercised, perform
from deadhead.derivation.tiny import default_config, model_class, tiny_config, tiny_model
from deadhead.errors import UnsupportedModelError

TYPES = (
    "bert",
    "llama",
    "t5",
    "clip",
    "whisper",
    "swin",
    "mixtral",
    "phi3",
    "gpt_bigcode",
    "deberta-v2",
    "gpt_oss",
    "modernbert",
    "vit",
    "llava",
)
pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn


@pytest.mark.parametrize("model_type", TYPES)
def test_every_attention_module_runs(model_type):
    model = tiny_model(model_type)
    found = exercises(model)
    assert found[0].path == ""
    assert attention_modules(model)
    assert not_exercised(model, found) == []
    assert not_exercised(model, []) == attention_modules(model)


@pytest.mark.parametrize("model_type", TYPES)
def test_tiny_models_are_tiny(model_type):
    model = tiny_model(model_type)
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) < 2_000_000
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_grouped_heads_stay_grouped():
    small = tiny_config(default_config("mixtral"))
    assert (small.num_attention_heads, small.num_key_value_heads) == (6, 2)
    same = tiny_config(default_config("llama"))
    assert (same.num_attention_heads, same.num_key_value_heads) == (6, 6)


def test_head_size_differs_from_width_over_heads_where_the_original_differs():
    config = default_config("qwen3")
    config.head_dim, config.hidden_size, config.num_attention_heads = 128, 1024, 16
    assert tiny_config(config).head_dim * 6 != tiny_config(config).hidden_size


def test_each_kind_of_layer_stays():
    small = tiny_config(default_config("gpt_oss"))
    assert set(small.layer_types) == set(default_config("gpt_oss").layer_types)
    assert len(small.layer_types) == small.num_hidden_layers


def test_the_config_given_stays_as_it_was():
    config = default_config("llava")
    before = copy.deepcopy(config).to_dict()
    tiny_config(config)
    assert config.to_dict() == before


def test_no_parameter_is_constant():
    for name, parameter in tiny_model("gpt_oss").named_parameters():
        assert parameter.numel() < 2 or parameter.std() > 0, name


def test_two_models_are_equal_and_the_random_state_stays():
    state = torch.get_rng_state()
    first, second = tiny_model("bert").state_dict(), tiny_model("bert").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_are_the_same_each_time():
    model = tiny_model("clip")
    first, second = exercises(model)[0].kwargs, exercises(model)[0].kwargs
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_images_come_with_their_placeholders():
    found = exercises(tiny_model("qwen2_5_vl"))
    (whole,) = found  # the image tower runs inside the whole model
    image = default_config("qwen2_5_vl").image_token_id
    placeholder = tiny_config(default_config("qwen2_5_vl")).image_token_id
    assert placeholder != image
    assert {"pixel_values", "image_grid_thw"} <= set(whole.kwargs)
    assert (whole.kwargs["input_ids"] == placeholder).sum() > 0


def test_backbones_keep_as_many_outputs():
    config = default_config("rf_detr").backbone_config
    small = tiny_config(config)
    assert len(small.out_features) == len(config.out_features)
    assert small.num_hidden_layers < config.num_hidden_layers


def test_performing_gives_the_default_dtype_back():
    model = tiny_model("bert")
    first, second = (perform(model, exercises(model)[0])[0] for _ in range(2))
    assert torch.get_default_dtype() is torch.float32
    assert first.dtype is torch.float64
    assert torch.equal(first, second)


def test_a_type_without_a_base_class_has_another():
    assert model_class("trocr").__name__ == "TrOCRForCausalLM"
    assert model_class("clip").__name__ == "CLIPModel"


def test_unknown_types_are_refused():
    with pytest.raises(UnsupportedModelError, match="not known to transformers"):
        tiny_model("berd")
