"""A cut model leaves as an ONNX graph, which ONNX Runtime runs alike for any number of tokens."""

from __future__ import annotations

import json
from functools import wraps

import numpy as np
import pytest
import torch
import transformers as hf
from tests.models import CONFIGS, batch

from deadhead import HeadModel, remove_
from deadhead.derivation.tiny import default_config, tiny_config
from deadhead.errors import CheckpointError, MissingDependencyError, UnsupportedModelError
from deadhead.exports import export, onnx
from deadhead.exports.run_onnx import Graph, continued
from deadhead.exports.verify import check_export

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's exporter and of transformers


def tiny(model_type, auto, *, layers=1):
    torch.manual_seed(0)
    made = CONFIGS.get(model_type, lambda: tiny_config(default_config(model_type)))
    config = made()
    for name in ("num_hidden_layers", "num_decoder_layers"):
        if hasattr(config, name):
            setattr(config, name, layers)
    model = auto.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    model = remove_(tiny("bert", hf.AutoModelForSequenceClassification), ["0.1", "0.4"])
    folder = tmp_path_factory.mktemp("onnx") / "encoder"
    return model, folder, export(model, folder, format="onnx")


@pytest.mark.slow
def test_an_encoder_takes_any_batch_and_pairs_of_texts(encoder):
    model, folder, made = encoder
    assert made.agreement.difference < 1e-5
    inputs = {name: value for name, value in batch().items() if name != "labels"}
    inputs["token_type_ids"] = (torch.arange(9) > 3).long().expand(3, -1)
    found = Graph(folder / "model.onnx")({name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(found["logits"]), model(**inputs).logits)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_attention_heads"] == 6
    assert "quantization_config" not in config
    assert 'InferenceSession("encoder/model.onnx")' in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_graph_that_gives_something_else_is_refused(encoder):
    model, folder, _ = encoder
    model.classifier.bias.data[0] += 1
    try:
        with pytest.raises(CheckpointError, match="outputs differ by"):
            check_export(onnx.onnx_trial(model), folder)
    finally:
        model.classifier.bias.data[0] -= 1


@pytest.mark.slow
def test_a_decoder_continues_padded_prompts_with_the_past_of_each_block(tmp_path):
    model = tiny("llama", hf.AutoModelForCausalLM, layers=2)
    remove_(model, [(0, head) for head in range(6)])
    made = export(model, tmp_path / "decoder", format="onnx")
    assert made.agreement.tokens == 12
    graph = Graph(tmp_path / "decoder/model.onnx")
    heads = [graph.inputs[f"past_key_values.{block}.key"][1] for block in range(2)]
    assert heads == [1, 2]  # a block without heads counts tokens
    inputs = batch(padding_side="left")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    found = continued(graph, ids.numpy(), mask.numpy(), 4)
    expected = model.generate(
        ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False
    )
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "auto", "tokens"),
    [
        ("t5", hf.AutoModelForSeq2SeqLM, 12),
        ("vit", hf.AutoModelForImageClassification, 0),
        ("mixtral", hf.AutoModelForCausalLM, 12),
    ],
)
def test_other_kinds_of_model(kind, auto, tokens, tmp_path):
    model = tiny(kind, auto)
    if kind == "t5":
        model.generation_config.decoder_start_token_id = 0
    remove_(model, [(0, head) for head in range(HeadModel(model).blocks[0].shape.group_size)])
    made = export(model, tmp_path / kind, format="onnx")
    assert made.agreement.difference < 1e-4
    assert made.agreement.tokens == tokens


def test_half_precision_leaves_in_float32():
    model = tiny("albert", hf.AutoModel).bfloat16()
    assert onnx.in_float32(model).dtype == torch.float32
    assert model.dtype == torch.bfloat16
    model.float()
    assert onnx.in_float32(model) is model


def test_an_operator_that_onnx_lacks_is_named(tmp_path, monkeypatch):
    model = remove_(tiny("distilbert", hf.AutoModel), ["0.1"])
    forward = type(model).forward

    @wraps(forward)
    def strange(self, *args, **kwargs):
        found = forward(self, *args, **kwargs)
        found["last_hidden_state"] = torch.special.bessel_j0(found["last_hidden_state"])
        return found

    monkeypatch.setattr(type(model), "forward", strange)
    with pytest.raises(UnsupportedModelError, match=r"'prims.bessel_j0', which ONNX"):
        export(model, tmp_path / "plain", format="onnx")
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'needs onnx.*pip install "deadhead\[onnx\]"'):
        export(tiny("bert", hf.AutoModel), tmp_path / "plain", format="onnx")
    assert not list(tmp_path.iterdir())
