"""The README's Python runs, as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"<!-- run -->\n```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == README.count("```python")
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["model"].config.quantization_config.blocks
    assert "Head(block=" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["migrating-from-transformers-4.md"])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    text = (ROOT / "docs" / page).read_text()
    for block in re.findall(r"<!-- run -->\n```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert names["importance"].shape == (4, 6)
    assert (tmp_path / "small/config.json").is_file()


def test_every_file_that_the_docs_name_is_there():
    for page in ("README.md", "CONTRIBUTING.md", *map(str, (ROOT / "docs").glob("*.md"))):
        folder = (ROOT / page).parent
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
            assert "://" in target or (folder / target).exists(), f"{page}: {target}"
