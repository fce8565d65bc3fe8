"""Classifiers that read the last token and name no padding: a batch gives what each text gives."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from deadhead import masked
from deadhead.data.batches import call
from models import CONFIGS, batch, make

TYPES = ("llama", "gpt2", "bloom", "opt")


def without_padding(model_type):
    config = CONFIGS[model_type]()
    config.pad_token_id, config.num_labels = None, 3
    torch.manual_seed(0)
    made = hf.AutoModelForSequenceClassification.from_config(config, dtype=torch.float64)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


# positions of gpt2 begin at the padding, and bloom makes NaN of padding on the left
CASES = [*((name, "right") for name in TYPES), ("llama", "left"), ("opt", "left")]


@pytest.mark.parametrize(("model_type", "side"), CASES)
@torch.no_grad()
def test_a_batch_gives_what_each_text_gives(model_type, side):
    model = without_padding(model_type)
    inputs = batch(padding_side=side)
    # texts that end with what pads, and with what comes next
    inputs["input_ids"][1][inputs["attention_mask"][1].nonzero()[-1]] = 0
    inputs["input_ids"][2][inputs["attention_mask"][2].nonzero()[-1]] = 1
    before = model.config.to_dict()
    found = call(model, inputs).logits
    rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    alone = [model(input_ids=ids[mask.bool()][None]).logits for ids, mask in rows]
    torch.testing.assert_close(found, torch.cat(alone))
    assert model.config.to_dict() == before
    assert model.config.pad_token_id is None


def test_the_config_is_as_it_was_after_an_error():
    model = without_padding("llama")
    hook = model.score.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division"):
        call(model, batch())
    hook.remove()
    assert model.config.pad_token_id is None


@torch.no_grad()
def test_masked_heads_are_masked_in_a_batch_too():
    model, inputs = without_padding("llama"), batch()
    with masked(model, ["0.0", "0.1", "0.2"]):
        found = call(model, inputs).logits
        one = call(model, {k: v[:1] for k, v in inputs.items()}).logits
    torch.testing.assert_close(found[:1], one)
    assert (found - call(model, inputs).logits).abs().max() > 1e-6


@torch.no_grad()
def test_what_names_its_padding_or_reads_no_last_token_is_left_alone():
    for model in (make("llama"), make("bert")):
        inputs, seen = batch(), []
        hook = model.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(kwargs["input_ids"]),
            with_kwargs=True,
        )
        call(model, inputs)
        hook.remove()
        torch.testing.assert_close(seen[0], inputs["input_ids"])
