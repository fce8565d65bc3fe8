"""Of a cut checkpoint only what deadhead cut is checked; the rest is as lenient as transformers."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from deadhead import Architecture, Head, HeadModel, PruningPlan, register_architecture, remove_
from deadhead.errors import CheckpointError
from models import AUTO, MODEL_TYPES, batch, kinds_of, make, outputs


def cut_(model, *heads):
    view = HeadModel(model)
    return remove_(model, PruningPlan(view.mask.drop(*heads), gqa="ungroup"))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_new_task_starts_from_a_cut_checkpoint(model_type, tmp_path):
    model = cut_(make(model_type, dtype=torch.float32), Head(0, 1), Head(1, 0))
    model.save_pretrained(tmp_path)
    again = AUTO["classification"].from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True
    )
    assert HeadModel(again).mask == HeadModel(model).mask
    assert outputs(again, batch()).shape[-1] == 5
    new = {n: p for n, p in again.named_parameters() if 5 in p.shape[:1]}
    assert new
    assert all(p.isfinite().all() and p.abs().max() < 1 for p in new.values())
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):  # transformers' own
        AUTO["classification"].from_pretrained(tmp_path, num_labels=5)


def test_heads_are_checked_though_mismatched_sizes_are_ignored(tmp_path):
    cut_(make("bert", dtype=torch.float32), Head(0, 1)).save_pretrained(tmp_path / "one")
    cut_(make("bert", dtype=torch.float32), Head(0, 1), Head(0, 2)).save_pretrained(tmp_path / "2")
    (tmp_path / "2" / "model.safetensors").replace(tmp_path / "one" / "model.safetensors")
    with pytest.raises(CheckpointError, match="take both files from the same checkpoint"):
        AUTO["classification"].from_pretrained(tmp_path / "one", ignore_mismatched_sizes=True)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_class_of_a_type_opens_every_other_s_checkpoint(model_type, tmp_path):
    for kind in kinds_of(model_type):
        model = cut_(make(model_type, kind, dtype=torch.float32), Head(0, 1))
        model.save_pretrained(tmp_path / kind)
        for other in kinds_of(model_type):
            again = AUTO[other].from_pretrained(tmp_path / kind)
            assert HeadModel(again).mask == HeadModel(model).mask
            one, two = (m.base_model.state_dict() for m in (again, model))
            assert all(torch.equal(one[name], two[name]) for name in set(one) & set(two))


def test_more_positions_or_words_are_transformers_business(tmp_path):
    model = cut_(make("bert", "base", dtype=torch.float32), Head(0, 1))
    model.resize_token_embeddings(50)
    model.save_pretrained(tmp_path)
    assert AUTO["base"].from_pretrained(tmp_path).embeddings.word_embeddings.weight.shape[0] == 50


SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6}
VISION = {**SIZES, "intermediate_size": 20, "image_size": 16, "patch_size": 8}


def separate(model_type, blocks, attention, *names):
    return Architecture(model_type, blocks, attention, *(f"{attention}.{n}" for n in names))


# types whose checkpoints have other names than their modules
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
RENAMED = {
    "vit": (separate("vit", "layers.*", "attention", *PROJECTIONS), hf.ViTModel, hf.ViTConfig),
    "deit": (separate("deit", "layers.*", "attention", *PROJECTIONS), hf.DeiTModel, hf.DeiTConfig),
}


@pytest.mark.parametrize("model_type", RENAMED)
def test_types_that_are_renamed_on_load(model_type, tmp_path, own_architectures):
    architecture, model_class, config_class = RENAMED[model_type]
    register_architecture(architecture)
    model = model_class(config_class(**VISION)).eval()
    images = torch.randn(1, 3, 16, 16)
    cut_(model, Head(0, 1), *(Head(1, i) for i in range(6)))
    model.save_pretrained(tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert not names <= set(model.state_dict()), "nothing is renamed: choose another type"
    again = model_class.from_pretrained(tmp_path)
    assert HeadModel(again).mask == HeadModel(model).mask
    with torch.no_grad():
        pair = [m(images).last_hidden_state for m in (model, again)]
    assert torch.equal(*pair)
    cut_(again, Head(0, 2))
    again.save_pretrained(tmp_path / "again")
    assert HeadModel(model_class.from_pretrained(tmp_path / "again")).mask.keeps(Head(0, 0))
    (tmp_path / "again" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"hold 'layers\.0.*take both files from the same"):
        model_class.from_pretrained(tmp_path)
