"""prune --repair distill, on texts of its own."""

from __future__ import annotations

import json
import sys

import pytest
from command import DATA, MODEL, SMALL

DISTILL = ("prune", MODEL, *SMALL, "-c", "magnitude", "-s", "one_shot", "--repair", "distill")


@pytest.mark.slow
def test_a_cut_model_is_trained_on_text_without_labels(deadhead, tmp_path):
    (tmp_path / "texts.txt").write_text("a fine film\na bad film\nthe film is dull\n")
    how = ("--train", "texts.txt", "--epochs", "1", "--no-save", "-o", "out")
    found = deadhead(*DISTILL, *how)
    assert found.code == 0, found.err
    said = json.loads((tmp_path / "out" / "run.json").read_text())["run"]["distillation"]
    assert said["steps"] == said["planned"] == 2, "the texts, and those joined of them"
    assert said["trained"] > 0


def test_text_to_train_on_is_refused_where_nothing_is_trained(deadhead):
    said = deadhead("prune", MODEL, *DATA, "--train", "texts.txt").refused()
    assert "--train does nothing here: it is for --repair distill" in said


@pytest.mark.parametrize(("package", "how"), [("accelerate", ()), ("peft", ("--lora", "4"))])
def test_a_missing_package_is_named_with_what_installs_it(deadhead, monkeypatch, package, how):
    monkeypatch.setitem(sys.modules, package, None)
    said = deadhead(*DISTILL, *how).refused()
    assert f'distill needs {package}, which is not installed; pip install "deadhead[train]"' in said
