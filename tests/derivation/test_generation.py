"""Masked, cut, and cut without a cache: a model writes the same."""

from dataclasses import replace

import pytest
import torch
import transformers as hf

from deadhead import HeadModel, masked, register_architecture, remove_
from deadhead.derivation.exercises import exercises
from deadhead.derivation.generation import cached_generation, has_generator
from deadhead.derivation.results import NotApplicable, Refuted
from deadhead.derivation.tiny import default_config, tiny_config, tiny_model
from deadhead.models.architectures import records_named

pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn


def law(model_type):
    model = tiny_model(model_type)
    assert has_generator(model)
    return cached_generation(model, exercises(model))


@pytest.mark.parametrize("model_type", ["llama", "bart", "deepseek_v3", "llama4"])
def test_text_is_the_same_masked_cut_and_cut_without_a_cache(model_type):
    assert law(model_type).startswith("5 tokens, left padding, largest difference")


def test_models_that_hear_write_without_padding():
    assert "padding" not in law("whisper")


def test_a_cache_that_changes_the_text_of_the_uncut_model_is_named():
    assert "the uncut model's own cache" in law("moshi")


def test_what_does_not_generate_says_so():
    assert not has_generator(tiny_model("vit"))
    with pytest.raises(NotApplicable, match="does not generate text"):
        cached_generation(tiny_model("vit"), [])


def test_a_wrong_record_is_refuted(own_architectures):
    register_architecture(*(replace(r, after_cut=None) for r in records_named("bloom")))
    with pytest.raises((Refuted, RuntimeError)):
        law("bloom")


@pytest.mark.parametrize("stack", ["encoder", "decoder", "decoder.cross"])
def test_a_masked_encoder_decoder_with_one_stack_generates(stack, own_architectures):
    kept = next(r for r in records_named("bart") if r.stack == stack)
    register_architecture(replace(kept, stack=""))
    torch.manual_seed(0)
    model = hf.BartForConditionalGeneration(tiny_config(default_config("bart"))).double().eval()
    ids = torch.randint(10, 60, (2, 6))
    heads = [(0, 1), (0, 2), (1, 0)]
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 1}
    with masked(model, heads):
        expected = model.generate(ids, **how)
    assert torch.equal(remove_(model, heads).generate(ids, **how), expected)


def test_a_base_model_of_another_name_than_its_class_says_is_found():
    model = hf.Llama4ForCausalLM(tiny_config(default_config("llama4_text")))
    assert model.base_model is model
    assert HeadModel(model).blocks[0].name == "model.layers.0"
