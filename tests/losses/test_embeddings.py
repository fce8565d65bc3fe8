"""Embeddings are those of sentence-transformers, and near the dense model's after a cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import deadhead
from deadhead.errors import CheckpointError, DataError, UnknownNameError
from deadhead.losses.embeddings import POOLS, embedder_of
from models import batch, make

TYPES = "sentence_transformers.models."


def folder_with(place, *modules):
    """Write the files of modules: (type, settings, tensors)."""
    listed = [{"path": "", "type": TYPES + "Transformer"}]
    for number, (kind, values, tensors) in enumerate(modules, 1):
        listed.append({"path": f"{number}_{kind}", "type": TYPES + kind})
        (place / f"{number}_{kind}").mkdir()
        (place / f"{number}_{kind}" / "config.json").write_text(json.dumps(values))
        if tensors:
            save_file(tensors, place / f"{number}_{kind}" / "model.safetensors")
    (place / "modules.json").write_text(json.dumps(listed))
    return place


def embedded(place, inputs=None):
    model, inputs = make("bert", "base"), batch() if inputs is None else inputs
    model.config.name_or_path = str(place)
    with torch.no_grad():
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return outputs.last_hidden_state, embedder_of(model.config)(model, outputs, inputs)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.slow
def test_pooling_is_that_of_sentence_transformers(name, tmp_path):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    place = folder_with(tmp_path, ("Pooling", {"pooling_mode": name}, None))
    states, found = embedded(place)
    pooling = modules.Pooling(24, pooling_mode=name)
    features = {"token_embeddings": states, "attention_mask": batch()["attention_mask"]}
    assert torch.allclose(found, pooling(features)["sentence_embedding"], atol=1e-12)


@pytest.mark.parametrize("name", POOLS)
def test_padding_is_not_pooled(name, tmp_path):
    place = folder_with(tmp_path, ("Pooling", {"pooling_mode": name}, None))
    _, together = embedded(place)
    one = {k: v[1:2, :6] for k, v in batch().items() if k != "labels"}
    _, alone = embedded(place, one)
    assert torch.allclose(together[1:2], alone, atol=1e-10)


def test_without_a_folder_it_is_the_mean(tmp_path):
    states, found = embedded(tmp_path)
    assert torch.allclose(found[2], states[2, :4].mean(0))


def test_old_names_side_by_side_with_a_dense_layer_behind(tmp_path):
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    weight = torch.randn(5, 48, dtype=torch.float64)
    tensors = {"linear.weight": weight, "linear.bias": torch.ones(5, dtype=torch.float64)}
    dense = {"activation_function": "torch.nn.modules.activation.Tanh"}
    place = folder_with(
        tmp_path, ("Pooling", pooling, None), ("Dense", dense, tensors), ("Normalize", {}, None)
    )
    states, found = embedded(place)
    pooled = torch.cat([states[0, 0], states[0].mean(0)])
    wanted = torch.tanh(weight @ pooled + 1)
    assert torch.allclose(found[0], wanted / wanted.norm())


@pytest.mark.parametrize(
    ("module", "error", "said"),
    [
        (("Pooling", {"pooling_mode": "median"}, None), UnknownNameError, "pooling 'median'"),
        (("LSTM", {}, None), DataError, "a module 'LSTM', which is not known here"),
        (("Dense", {}, None), CheckpointError, "has no model.safetensors"),
        (("Dense", {"activation_function": "os.system"}, None), UnknownNameError, "'system'"),
    ],
)
def test_what_is_not_known_is_refused(module, error, said, tmp_path):
    with pytest.raises(error, match=said) as refused:
        embedded(folder_with(tmp_path, module))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_model_without_a_head_is_judged_by_its_embeddings(tmp_path):
    model = make("bert", "base", dtype=torch.float32)
    result = deadhead.prune(model, [batch((9, 6, 4, 5, 8), seed=n) for n in range(8)], heads=4)
    assert (result.evaluated_on, result.trajectory.metric) == ("held_out", "cosine")
    assert result.dense.value == 1
    assert 0 < result.pruned.metrics["lowest_cosine"] <= result.pruned.value < 1
    assert "cosine to the dense embeddings" in str(result)
    kept = deadhead.tasks.as_tasks([batch((9, 6, 4, 5, 8), seed=n) for n in range(8)], model)
    inputs = kept.held_out.batches()
    found = []
    with torch.no_grad():
        for each in inputs:
            each = {k: v for k, v in each.items() if k != "labels"}
            embed = embedder_of(model.config)
            pair = [embed(m, m(**each), each) for m in (model, result.model)]
            found += torch.nn.functional.cosine_similarity(*pair).tolist()
    assert result.pruned.value == pytest.approx(np.mean(found), abs=1e-5)
