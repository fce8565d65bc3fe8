"""What lies beside a model's weights travels with its cut copy."""

from __future__ import annotations

import json

import pytest

from deadhead import HeadModel, PruningPlan, load_model, remove_, save_model
from deadhead.checkpoints.companions import companions_of
from deadhead.errors import CheckpointError
from masks import random_mask
from models import make
from tiny_words import tokenizer

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Norm", "type": "sentence_transformers.models.Normalize"},
]
POOLING = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}
KEPT = {
    "config_sentence_transformers.json": '{"__version__": {"sentence_transformers": "2.0.0"}}',
    "sentence_bert_config.json": '{"max_seq_length": 32, "do_lower_case": false}',
    "preprocessor_config.json": '{"size": 30}',
    "chat_template.jinja": "{{ messages }}",
    "LICENSE": "Apache",
}
LEFT_OUT = (
    "model.onnx",
    "pytorch_model.bin.index.json",
    "trainer_state.json",
    "training_args.bin",
    "all_results.json",
    ".gitattributes",
    "optimizer.pt",
)


@pytest.fixture
def folder(tmp_path):
    """A sentence-transformers model with everything beside it that people keep there."""
    place = tmp_path / "embedder"
    save_model(make("bert", "base"), tokenizer(), place)
    (place / "modules.json").write_text(json.dumps(MODULES))
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    (place / "onnx").mkdir()
    (place / "onnx" / "config.json").write_text("{}")
    (place / "README.md").write_text("the base")
    for name, text in KEPT.items():
        (place / name).write_text(text)
    for name in LEFT_OUT:
        (place / name).write_bytes(b"\x80\x04not to be read")
    return place


def cut(folder, target, **how):
    loaded = load_model(folder)
    mask = HeadModel(loaded.model).mask
    remove_(loaded.model, PruningPlan(mask & random_mask(mask, 0)))
    save_model(loaded.model, loaded.tokenizer, target, **how)
    return loaded.model


def test_what_people_and_libraries_read_is_kept_and_no_weights(folder, tmp_path):
    cut(folder, tmp_path / "cut", card="the card")
    for name, text in KEPT.items():
        assert (tmp_path / "cut" / name).read_text() == text
    assert json.loads((tmp_path / "cut" / "modules.json").read_text()) == MODULES
    assert json.loads((tmp_path / "cut" / "1_Pooling" / "config.json").read_text()) == POOLING
    assert not any((tmp_path / "cut" / name).exists() for name in (*LEFT_OUT, "onnx"))


def test_the_new_files_win(folder, tmp_path):
    cut(folder, tmp_path / "cut", card="the card")
    assert (tmp_path / "cut" / "README.md").read_text() == "the card"
    assert (tmp_path / "cut" / "README.base.md").read_text() == "the base"
    assert "deadhead" in (tmp_path / "cut" / "config.json").read_text()
    cut(tmp_path / "cut", tmp_path / "again", card="the second card")
    assert (tmp_path / "again" / "README.md").read_text() == "the second card"
    assert (tmp_path / "again" / "README.base.md").read_text() == "the base"
    cut(folder, tmp_path / "bare")
    assert (tmp_path / "bare" / "README.md").read_text() == "the base"


def test_a_module_keeps_its_own_weights(folder):
    (folder / "2_Norm").mkdir()
    (folder / "2_Norm" / "model.safetensors").write_bytes(b"weights of a dense layer")
    assert "2_Norm/model.safetensors" in map(str, companions_of(folder))


@pytest.mark.parametrize(
    "modules",
    ["[", "{}", "3", '["1_Pooling"]', '[{"path": "../up", "type": "x"}]', '[{"path": "/etc"}]'],
)
def test_broken_modules_are_refused_before_anything_runs(folder, modules):
    (folder / "modules.json").write_text(modules)
    with pytest.raises(CheckpointError, match=r"modules\.json") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_a_base_model_in_a_folder_of_its_own_is_named(folder):
    modules = [{**MODULES[0], "path": "0_Transformer"}, *MODULES[1:]]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "0_Transformer").mkdir()
    (folder / "config.json").rename(folder / "0_Transformer" / "config.json")
    with pytest.raises(CheckpointError, match="give the folder of its base model, '0_Transformer'"):
        load_model(folder)


@pytest.mark.slow
def test_sentence_transformers_loads_the_cut_copy(folder, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    model = cut(folder, tmp_path / "cut").float()
    again = library.SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    texts = ["w3 w4 w5", "w6"]
    found = again.encode(texts)
    inputs = tokenizer()(texts, padding=True, return_tensors="pt")
    states = model(**{k: v for k, v in inputs.items() if k != "token_type_ids"}).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    wanted = mean / mean.norm(dim=1, keepdim=True)
    assert found == pytest.approx(wanted.detach().numpy(), abs=1e-5)
