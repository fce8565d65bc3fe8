"""Every example in a docstring runs and shows what it says."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
EXAMPLE = re.compile(r"^ *>>> (?!.*doctest: \+SKIP)", re.M)  # some need training or lm-eval
FILES = sorted(f for f in SOURCE.rglob("*.py") if EXAMPLE.search(f.read_text(encoding="utf-8")))
MODULES = [".".join(f.relative_to(SOURCE).with_suffix("").parts) for f in FILES]


def test_there_are_examples():
    assert len(MODULES) > 10


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed
