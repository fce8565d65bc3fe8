"""deadhead export: a checkpoint for those who do not have deadhead."""

from __future__ import annotations

import shutil


def test_the_command_exports_a_checkpoint(tmp_path, deadhead, cut):
    shutil.copytree(cut, tmp_path / "run/model")
    result = deadhead("export", "run", "--format", "padded", "-o", "plain")
    assert result.code == 0
    assert "loaded without deadhead" in result.out
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert "not empty" in deadhead("export", "run", "-o", "plain").refused()
    line = deadhead("export", "run", "--format", "gg", "-o", "other").refused()
    assert "known: onnx, padded" in line


def test_heads_by_block_as_transformers_4_took_them_are_a_plan(tmp_path, deadhead):
    (tmp_path / "heads.json").write_text('{"0": [1, 2], "3": [5]}')
    result = deadhead("apply", "bundled:encoder", "--plan", "heads.json", "-o", "small")
    assert result.code == 0
    assert "21 of 24" in result.out
    (tmp_path / "heads.json").write_text('{"0": [99]}')
    assert (
        "no head" in deadhead("apply", "bundled:encoder", "-p", "heads.json", "-o", "x").refused()
    )
