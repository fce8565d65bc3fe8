"""A cut model's own save_pretrained is enough, however it is called and whatever came before."""

from __future__ import annotations

import pytest
import torch

from deadhead import HeadModel, PruningPlan, load_model, remove_, save_model
from deadhead.errors import CheckpointError, DeadheadError
from masks import random_mask
from models import AUTO, MODEL_TYPES, batch, kinds_of, make, outputs


def cut(model, seed=0):
    mask = HeadModel(model).mask
    share = 0.5 if seed == 0 else 0.3
    return remove_(model, PruningPlan(mask & random_mask(mask, seed, share=share), gqa="ungroup"))


def loaded(model, folder, kind="classification"):
    backend = model.config._attn_implementation
    return AUTO[kind].from_pretrained(folder, attn_implementation=backend)


def same(model, again):
    assert again.dtype == model.dtype
    assert HeadModel(again).mask == HeadModel(model).mask
    assert torch.equal(outputs(again, batch()), outputs(model, batch()))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_comes_back_bit_for_bit_from_many_files_in_bfloat16(model_type, tmp_path):
    for kind in kinds_of(model_type):
        model = cut(make(model_type, kind, dtype=torch.bfloat16))
        model.save_pretrained(tmp_path / kind, max_shard_size="8KB")
        assert len(list((tmp_path / kind).glob("*.safetensors"))) > 1
        same(model, loaded(model, tmp_path / kind, kind))


@pytest.mark.parametrize("options", ({}, {"safe_serialization": True}, {"max_shard_size": "4KB"}))
def test_it_replaces_an_older_checkpoint(options, tmp_path):
    make("bert", dtype=torch.float32).save_pretrained(tmp_path, max_shard_size="2KB")
    (tmp_path / "model.safetensors.index.json").unlink()  # transformers prefers one file
    model = cut(make("bert", dtype=torch.float32))
    model.save_pretrained(tmp_path, **options)
    same(model, loaded(model, tmp_path))
    same(model, load_model(str(tmp_path)).model)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_after_training_and_another_cut(model_type, tmp_path):
    model = cut(make(model_type, dtype=torch.float32))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in (1, 2):
        model(**batch()).loss.backward()
        optimizer.step()
        cut(model, seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.save_pretrained(tmp_path / str(seed))
        same(model, loaded(model, tmp_path / str(seed)))


@pytest.mark.parametrize(
    ("model_type", "kind"), (("bert", "masked_lm"), ("gpt2", "causal_lm"), ("opt", "causal_lm"))
)
@pytest.mark.slow
def test_tied_weights_stay_tied(model_type, kind, tmp_path):
    model = cut(make(model_type, kind, dtype=torch.float32))
    model.save_pretrained(tmp_path)
    again = AUTO[kind].from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(outputs(again, batch()), outputs(model, batch()))
    assert load_model(str(tmp_path)).model.config.tie_word_embeddings


class Broken:
    """A tokenizer that fails in the middle of its work, as the ones in Rust do on a full disk."""

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{")
        raise Exception("No space left on device (os error 28)\nsecond line")


def test_a_tokenizer_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="could not write 'out': No space left") as caught:
        save_model(make("bert"), Broken(), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_weights_without_numbers_are_not_saved(tmp_path):
    with pytest.raises(DeadheadError) as caught:
        save_model(make("bert").to("meta"), None, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_was_written_is_compared_with_the_model(tmp_path):
    model = cut(make("bert", dtype=torch.float32))
    plain_save = model.save_pretrained

    def save_another(folder):
        plain_save(folder)
        make("bert", dtype=torch.float32).save_pretrained(folder)

    model.save_pretrained = save_another
    with pytest.raises(CheckpointError, match="the weights hold"):
        save_model(model, None, tmp_path / "out")
    assert not list(tmp_path.iterdir())
