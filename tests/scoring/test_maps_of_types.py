"""Attention maps of derived types: seen, or refused in one line; the backends stay as they were."""

import pytest
import torch
import transformers as hf

from deadhead import HeadModel, score
from deadhead.derivation.exercises import exercises
from deadhead.derivation.laws import run_exercises
from deadhead.derivation.tiny import default_config, tiny_config, tiny_model
from deadhead.errors import UnsupportedModelError
from deadhead.models.maps import hook_maps

pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn


def backends(model):
    parts = ((n, m) for n, m in model.named_modules() if "config" in vars(m))
    return {name: part.config._attn_implementation for name, part in parts}


@pytest.mark.parametrize("model_type", ["clip", "mixtral", "marian", "detr", "kosmos-2"])
def test_maps_are_distributions_whatever_the_backend(model_type):
    model = tiny_model(model_type)
    found = exercises(model)
    if model_type == "mixtral":
        model.set_attn_implementation("sdpa")
    if model_type == "detr":
        model.config._attn_implementation = {"": "sdpa", "backbone_config": "eager"}
    view, seen, before = HeadModel(model), set(), backends(model)

    def see(number, rows, maps, visible):
        assert maps.shape[1] == view.blocks[number].n_heads
        assert torch.allclose(maps.sum(-1), torch.ones((), dtype=maps.dtype), atol=1e-5)
        seen.add(number)

    with hook_maps(view, see):
        run_exercises(model, found)
    assert seen == set(range(len(view.blocks)))
    assert backends(model) == before


def test_entropy_of_a_type_whose_attention_returns_its_maps_does_not_depend_on_the_backend():
    torch.manual_seed(0)
    model = hf.BartForSequenceClassification(tiny_config(default_config("bart"))).eval()
    batch = {"input_ids": torch.randint(5, 90, (2, 6)), "attention_mask": torch.ones(2, 6).long()}
    batch["input_ids"][:, -1] = model.config.eos_token_id
    values = []
    for backend in ("sdpa", "eager"):
        model.set_attn_implementation(backend)
        values.append(score(model, [batch], "attention_entropy").values)
        assert model.config._attn_implementation == backend
    for one, other in zip(*values, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_maps_that_cannot_be_seen_are_refused_with_what_works_instead():
    with (
        pytest.raises(UnsupportedModelError, match=r"maps of 't5'.*criterion taylor"),
        hook_maps(HeadModel(tiny_model("t5")), lambda *_: None),
    ):
        pass
