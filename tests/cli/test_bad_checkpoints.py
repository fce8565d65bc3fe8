"""A checkpoint whose parts disagree is refused, and says which and where."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command import DATA

from deadhead.bundled import model_path


def block(config):
    return config["quantization_config"]["blocks"]["0"]


def entry(config):
    return config["quantization_config"]


CONFIGS = {
    "heads": (lambda c: block(c)["heads"].append(5), "block 0 .*contradicts itself: heads"),
    "counts": (lambda c: block(c).update(num_attention_heads=3), "block 0 .*contradicts itself"),
    "other heads": (
        lambda c: block(c).update(
            heads=[1], key_value_heads=[1], num_attention_heads=1, num_key_value_heads=1
        ),
        r"hold 'bert.*layer.0.*' with shape \[32, 48\], config.json asks for \[8, 48\]",
    ),
    "head size": (
        lambda c: block(c).update(head_dim=9),
        "block 0 had 6 heads and 6 key/value heads of 9 features by",
    ),
    "original": (
        lambda c: block(c).update(original_num_attention_heads=12),
        "block 0 had 12 heads and 6 key/value heads of 8 features by",
    ),
    "no heads": (lambda c: block(c).pop("heads"), "block 0 .*lacks 'heads'"),
    "null": (lambda c: entry(c)["blocks"].update({"0": None}), "block 0 .*is damaged"),
    "block 99": (
        lambda c: entry(c)["blocks"].update({"99": block(c)}),
        "lists block 99, the model has 4 blocks",
    ),
    "block 00": (lambda c: entry(c)["blocks"].update({"00": block(c)}), "block '00', which is no"),
    "block 10**5000": (
        lambda c: entry(c)["blocks"].update({"9" * 5000: block(c)}),
        "lists block '9*', which is no",
    ),
    "heads of text": (lambda c: block(c).update(heads=["a"] * 4), "block 0 .*is damaged"),
    "heads of fractions": (lambda c: block(c).update(heads=[0.0, 1.0]), "block 0 .*is damaged"),
    "counts of text": (lambda c: block(c).update(num_attention_heads="4"), "block 0 .*is damaged"),
    "no key/value heads": (
        lambda c: block(c).update(key_value_heads=[], num_key_value_heads=0),
        "block 0 .*contradicts itself",
    ),
    "key/value heads only": (
        lambda c: block(c).update(heads=[], num_attention_heads=0),
        "block 0 .*contradicts itself",
    ),
    "block x": (lambda c: entry(c)["blocks"].update({"x": block(c)}), "block 'x', which is no"),
    "one block less": (lambda c: entry(c)["blocks"].pop("0"), "config.json asks for"),
    "format": (lambda c: entry(c).update(format=9), "has format 9 .*upgrade deadhead"),
    "no entry": (
        lambda c: c.pop("quantization_config"),
        r"hold 'bert.*' with shape \[.*\], config.json asks for \[.*take both files",
    ),
    "entry a list": (lambda c: c.update(quantization_config=[1]), "cannot load"),
    "wider": (
        lambda c: c.update(hidden_size=96),
        "block 0 had 6 heads and 6 key/value heads of 8 features by",
    ),
    "text for a number": (lambda c: c.update(hidden_size="x"), "cannot load .*hidden_size"),
    "no type": (lambda c: c.pop("model_type"), "names no model_type; give a folder written by"),
    "another type": (
        lambda c: c.update(model_type="fnet"),
        r"model type 'fnet' has no record",
    ),
    "unknown class": (
        lambda c: c.update(architectures=["Nope"]),
        "no two texts and a score among its columns .* use a model with a head on top",
    ),
}


def halve(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def take(folder: Path, name: str) -> None:
    shutil.copy(model_path(name) / "model.safetensors", folder / "model.safetensors")


def index(folder: Path, content: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


NO_INDEX = "'model.safetensors.index.json' is not a weight index; copy it again"
FILES = {
    "index a list": (lambda f: index(f, []), NO_INDEX),
    "index of a list": (lambda f: index(f, {"weight_map": []}), NO_INDEX),
    "index of numbers": (lambda f: index(f, {"weight_map": {"a": 1}}), NO_INDEX),
    "truncated": (halve, "'model.safetensors' is not a whole safetensors file.*copy it again"),
    "not safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"x" * 99),
        "'model.safetensors' is not a whole safetensors file",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"lacks model.safetensors; deadhead reads safetensors only \(never pickles\)",
    ),
    "uncut weights": (
        lambda f: take(f, "encoder"),
        r"with shape \[48, 48\], config.json asks for \[32, 48\]; take both files from the same",
    ),
    "weights of a decoder": (
        lambda f: take(f, "decoder"),
        "the weights .*lack 'bert.*; take ",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "is not a JSON object"),
    "no tokenizer": (
        lambda f: [p.unlink() for p in f.glob("tokenizer*")],
        "the model has no tokenizer to read text with; put",
    ),
    "tokenizer not JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "cannot load 'bad'"),
}


@pytest.mark.parametrize("what", [*CONFIGS, *FILES])
def test_a_checkpoint_that_contradicts_itself_is_refused(deadhead, tmp_path, cut, what):
    folder = tmp_path / "bad"
    shutil.copytree(cut, folder)
    if what in CONFIGS:
        spoil, message = CONFIGS[what]
        config = json.loads((folder / "config.json").read_text())
        spoil(config)
        (folder / "config.json").write_text(json.dumps(config))
    else:
        spoil, message = FILES[what]
        spoil(folder)
    line = deadhead("evaluate", "bad", *DATA[:2], "--test-size", "8").refused()
    assert re.search(message, line), line


def test_the_same_checkpoint_unspoilt_is_fine(deadhead, cut):
    found = deadhead("evaluate", cut, *DATA[:2], "--test-size", "8", "--json")
    assert 0 <= found.json["value"] <= 1


@pytest.mark.slow
def test_without_a_tokenizer_weights_can_still_be_scored_and_cut(deadhead, tmp_path, cut):
    shutil.copytree(cut, tmp_path / "bare")
    for file in (tmp_path / "bare").glob("tokenizer*"):
        file.unlink()
    assert deadhead("plan", "bare", "-c", "magnitude", "--heads", "6").code == 0
    assert deadhead("apply", "bare", "-o", "out").code == 0
    assert not list((tmp_path / "out").glob("tokenizer*"))
