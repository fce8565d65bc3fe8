"""deadhead maps: attention maps of chosen heads on a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deadhead import Head, load_model
from deadhead.errors import DataError
from deadhead.runs.attention import attention_maps

MODEL = "bundled:decoder"
TEXT = "the king beside the boats is waking"


@pytest.fixture(scope="module")
def decoder():
    return load_model(MODEL)


@pytest.mark.slow
def test_numbers_and_figures_are_written(deadhead, tmp_path, decoder):
    found = deadhead("maps", MODEL, "--text", TEXT, "--heads", "2.3,0.1,2.3", "-o", "out")
    assert found.code == 0, found.err
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["attention.json", "attention.png", "attention.svg"]
    values = json.loads((tmp_path / "out" / "attention.json").read_text())
    assert list(values["maps"]) == ["2.3", "0.1"]
    assert values["tokens"][1:3] == ["the", "king"]
    for name, rows in values["maps"].items():
        direct = eager_maps(decoder, TEXT)[int(name[0])][0, int(name[2])]
        assert np.allclose(rows, direct, atol=1e-6)
        assert np.allclose(np.sum(rows, axis=1), 1)
        assert np.triu(rows, 1).max() == 0


def eager_maps(loaded, text):
    model = load_model(MODEL).model
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(**loaded.tokenizer(text, return_tensors="pt"), output_attentions=True)
    return [a.numpy() for a in out.attentions]


def test_json_is_one_object(deadhead):
    found = deadhead("maps", MODEL, "--text", TEXT, "--heads", "0.1", "-o", "out", "--json")
    assert found.json["output"] == "out"
    assert found.json["heads"] == ["0.1"]
    whole = json.loads(Path(found.json["files"]["attention"]).read_text())
    assert np.shape(whole["maps"]["0.1"]) == (len(whole["tokens"]),) * 2


def test_heads_are_named_by_their_original_index(cut):
    whole, less = load_model("bundled:encoder"), load_model(str(cut))
    (a,) = attention_maps(whole, "a fine film", [Head(0, 2)]).maps
    (b,) = attention_maps(less, "a fine film", [Head(0, 2)]).maps
    assert np.allclose(a, b, atol=1e-6)  # block 0 has lost 0.1, and 0.2 sits in its place


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--heads", "0.9"), "there is no head 0.9"),
        (("--heads", "7.0"), "there is no head 7.0"),
        (("--heads", "one"), "'one' is not a head; write block.index"),
        (("--heads", ","), "',' names no head"),
        (("--text", " "), "the text ' ' has"),
        (("--text", "the dogs " * 60), "2 tokens or more, and 64 at most"),
        (("--dtype", "flot32"), "did you mean 'float32'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(deadhead, tmp_path, options, said):
    given = {"--text": TEXT, "--heads": "0.1", **dict([options])}
    line = deadhead("maps", MODEL, *(x for o in given.items() for x in o), "-o", "out").refused()
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_one_token_is_refused(decoder, monkeypatch):
    one = {"input_ids": torch.tensor([[5]]), "attention_mask": torch.ones(1, 1, dtype=torch.long)}
    monkeypatch.setattr(type(decoder.tokenizer), "__call__", lambda *a, **k: one)
    with pytest.raises(DataError, match="the text 'a' has 1 token; give a sentence"):
        attention_maps(decoder, "a", [Head(0, 0)])


def test_heads_that_are_gone_and_full_folders_are_refused(deadhead, cut, tmp_path):
    line = deadhead("maps", cut, "--text", "fine", "--heads", "0.1", "-o", "out").refused()
    assert "head 0.1 has been cut out of 'cut'" in line
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    options = ("--text", TEXT, "--heads", "0.1", "-o", "full")
    assert "is not empty" in deadhead("maps", MODEL, *options).refused()
