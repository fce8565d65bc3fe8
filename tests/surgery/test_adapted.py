"""Models that peft has adapted are scored, masked and judged through the adapter, and not cut."""

from __future__ import annotations

import copy

import numpy as np
import peft
import pytest
import torch
from torch import nn

from deadhead import applied, choose, masked, prune, remove_, score
from deadhead.errors import UnsupportedModelError
from deadhead.surgery import mask_
from models import batch, make, outputs

GONE = ["0.0", "0.1", "0.2"]  # all of a key/value head
TARGETS = {
    "bert": ["query", "value", "attention.output.dense"],
    "gpt2": ["c_attn", "c_proj"],
    "llama": ["q_proj", "v_proj", "o_proj"],
}
READ_NO_WEIGHTS = ("taylor", "gradient_norm", "fisher", "ablation", "attention_entropy")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:fan_in_fan_out")


def drawn_(model):
    """Give adapters weights that do something: they begin as nothing."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def lora(model, **more):
    targets = TARGETS[model.config.model_type]
    return drawn_(peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2, **more)))


def injected(model):
    targets = TARGETS[model.config.model_type]
    model.add_adapter(peft.LoraConfig(target_modules=targets, r=2))
    return drawn_(model)


def tuner(model):
    targets = TARGETS[model.config.model_type]
    return drawn_(peft.LoraModel(model, peft.LoraConfig(target_modules=targets, r=2), "default"))


WAYS = {"wrapped": lora, "injected by transformers": injected, "a tuner": tuner}


def merged(adapted):
    if hasattr(adapted, "merge_and_unload"):
        return copy.deepcopy(adapted).merge_and_unload()
    whole = peft.LoraModel(
        make("bert"), peft.LoraConfig(target_modules=TARGETS["bert"], r=2), "default"
    )
    whole.model.load_state_dict(adapted.state_dict())
    return whole.merge_and_unload().eval()


@pytest.mark.parametrize(
    ("model_type", "way"),
    [("bert", way) for way in WAYS] + [("gpt2", "wrapped"), ("llama", "wrapped")],
)
def test_masks_and_scores_are_those_of_the_merged_model(model_type, way):
    adapted = WAYS[way](make(model_type))
    plain = merged(adapted)
    with masked(adapted, GONE) as found, masked(plain, GONE), torch.no_grad():
        assert found is adapted
        torch.testing.assert_close(outputs(adapted, batch()), outputs(plain, batch()))
    with applied(adapted, GONE):
        cut = outputs(adapted, batch())
    torch.testing.assert_close(cut, outputs(remove_(plain, GONE), batch()))
    plain = merged(adapted)
    for criterion in READ_NO_WEIGHTS:
        ours, theirs = (score(m, [batch()], criterion).values for m in (adapted, plain))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12)


def unread():
    raise AssertionError("data are read before the model is refused")
    yield


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_neither_read_nor_cut(way):
    adapted = WAYS[way](make("bert"))
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    for change in (
        lambda: remove_(adapted, GONE),
        lambda: mask_(adapted, GONE),
        lambda: prune(adapted, [batch()], heads=2),
        lambda: prune(adapted, unread(), heads=2, criterion="taylor"),
        lambda: score(adapted, [batch()], "magnitude"),
        lambda: score(adapted, [batch()], "reconstruction"),
    ):
        with pytest.raises(
            UnsupportedModelError, match=r"model = peft_model\.merge_and_unload\(\)"
        ):
            change()
    assert all(torch.equal(before[name], t) for name, t in adapted.state_dict().items())


def test_a_plan_is_chosen_through_the_adapter_and_cuts_the_merged_model():
    adapted = lora(make("bert"))
    plan = choose(adapted, [batch()], criterion="taylor", heads=3)
    assert (
        plan.mask.dropped
        == choose(merged(adapted), [batch()], criterion="taylor", heads=3).mask.dropped
    )
    assert remove_(adapted.merge_and_unload(), plan).config.quantization_config.blocks
