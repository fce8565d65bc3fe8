"""What transformers 4 had, with the old meaning."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.models import batch, make, outputs
from torch import nn
from transformers import AutoModelForSequenceClassification

from deadhead import Head, HeadModel, compat, load_model, masked, remove_
from deadhead.errors import CheckpointError, HeadError


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_prune_heads_removes_and_passes_over_what_is_gone(model_type):
    model = make(model_type)
    with masked(model, [(0, 1), (1, 0)]):
        expected = outputs(model, batch())
    compat.prune_heads(model, {0: [1]})
    compat.prune_heads(model, {"0": {1}, 1: (0,)})
    assert set(HeadModel(model).mask.dropped) == {Head(0, 1), Head(1, 0)}
    torch.testing.assert_close(outputs(model, batch()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "bad", [{0: [99]}, {9: [0]}, {0: ["a"]}, {"x": [0]}, {0: "12"}, {0: [True]}]
)
def test_bad_heads_are_refused(bad):
    model = make("bert")
    for function in (compat.prune_heads, remove_):
        with pytest.raises(HeadError):
            function(model, bad)
    assert not HeadModel(model).mask.dropped


def test_indices_are_those_of_the_weights_now():
    heads, index = compat.find_pruneable_heads_and_indices([0, 2], 3, 2, {0})
    assert heads == {2}  # 1, 2 and 3 are left, in this order
    assert index.tolist() == [0, 1, 4, 5]
    assert compat.find_pruneable_heads_and_indices([1], 4, 3, set())[1].tolist() == [
        0,
        1,
        2,
        *range(6, 12),
    ]


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_keeps_outputs_or_inputs(bias):
    layer, index = nn.Linear(6, 4, bias=bias).requires_grad_(False), torch.tensor([0, 3])
    x = torch.randn(2, 6)
    made = compat.prune_linear_layer(layer, index)
    assert torch.allclose(made(x), layer(x)[:, index])
    inputs = compat.prune_linear_layer(layer, index, dim=1)
    only = torch.zeros(6).index_fill(0, index, 1)
    assert torch.allclose(inputs(x[:, index]), layer(x * only))
    assert layer.weight.shape == (4, 6)


def test_a_mask_scales_heads_and_has_gradients():
    model = make("bert")
    inputs = batch()
    labels = inputs.pop("labels")
    heads = HeadModel(model).blocks[0].n_heads
    mask = torch.ones(3, heads, dtype=torch.float64, requires_grad=True)
    with compat.head_mask(model, mask):
        model(**inputs, labels=labels).loss.backward()
    step, at = 1e-6, (1, 2)
    losses = []
    for change in (-step, step):
        other = mask.detach().clone()
        other[at] += change
        with compat.head_mask(model, other), torch.no_grad():
            losses.append(model(**inputs, labels=labels).loss.item())
    assert mask.grad is not None
    assert mask.grad[at].item() == pytest.approx((losses[1] - losses[0]) / (2 * step), rel=1e-5)


def test_each_row_of_a_batch_may_have_its_mask():
    model, inputs = make("llama"), batch()
    inputs.pop("labels")
    heads = HeadModel(model).blocks[0].n_heads
    mask = torch.ones(3, 3, heads)
    mask[0, 1, 2] = 0
    with torch.no_grad():
        dense = model(**inputs).logits
        with compat.head_mask(model, mask[..., None, None]):
            found = model(**inputs).logits
        with masked(model, [(0, 2)]):
            off = model(**inputs).logits
    torch.testing.assert_close(found[[0, 2]], dense[[0, 2]])
    torch.testing.assert_close(found[1], off[1])


@pytest.mark.parametrize("shape", [(3,), (5, 4), (2, 4, 4, 2)])
def test_masks_of_another_shape_are_refused(shape):
    with (
        pytest.raises(HeadError, match=r"give \(heads,\), \(blocks, heads\)"),
        compat.head_mask(make("bert"), torch.ones(shape)),
    ):
        pass


def test_a_stack_that_is_not_there_is_refused():
    with (
        pytest.raises(HeadError, match=r"decoder\.cross"),
        compat.head_mask(make("bert"), cross_attn_head_mask=torch.ones(4)),
    ):
        pass


def save(model: Any, folder) -> None:
    model.save_pretrained(folder)


def _by_transformers_4(folder, pruned):
    """Write a config as transformers 4 left it."""
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config | {"pruned_heads": pruned}))


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_checkpoints_with_pruned_heads_load_and_are_saved_anew(model_type, tmp_path):
    model = make(model_type)
    compat.prune_heads(model, {0: [1], 1: [0, 2]})
    save(model, tmp_path / "old")
    _by_transformers_4(tmp_path / "old", {"0": [1], "1": [2, 0]})
    loaded = load_model(tmp_path / "old").model
    assert HeadModel(loaded).mask == HeadModel(model).mask
    assert torch.equal(outputs(loaded, batch()), outputs(model, batch()))
    save(loaded, tmp_path / "new")
    assert "pruned_heads" not in json.loads((tmp_path / "new/config.json").read_text())
    assert torch.equal(
        outputs(
            AutoModelForSequenceClassification.from_pretrained(tmp_path / "new", dtype="float64"),
            batch(),
        ),
        outputs(model, batch()),
    )


@pytest.mark.parametrize("pruned", [{"0": [1]}, {"0": [99]}, {"9": [1]}, {"0": "1"}, [1]])
def test_pruned_heads_that_contradict_the_weights_are_refused(pruned, tmp_path):
    model = make("bert")
    compat.prune_heads(model, {0: [1], 1: [0, 2]})
    save(model, tmp_path)
    _by_transformers_4(tmp_path, pruned)
    with pytest.raises((CheckpointError, HeadError)):
        load_model(tmp_path)
