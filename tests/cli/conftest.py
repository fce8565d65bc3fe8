"""The command, run in this process: a fresh one takes seconds to import torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Result

from deadhead.cli import main


@pytest.fixture
def deadhead(monkeypatch, capsys, tmp_path) -> Callable[..., Result]:
    """Run `deadhead ARGS` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["deadhead", *map(str, args)])
        code = 0
        capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def no_figures(monkeypatch):
    """Leave out the report: figures take most of the time of a small run."""
    module = importlib.import_module("deadhead.runs.prune")  # the function has its name
    monkeypatch.setattr(module, "write_report", lambda summary, folder: None)


@pytest.fixture(scope="session")
def cut(tmp_path_factory) -> Path:
    """A checkpoint of the bundled encoder that has lost heads in every block but one."""
    from deadhead import Head, HeadModel, PruningPlan, load_model, remove_, save_model

    loaded = load_model("bundled:encoder")
    gone = [Head(0, 1), Head(0, 4), Head(2, 0), Head(3, 5)]
    remove_(loaded.model, PruningPlan(HeadModel(loaded.model).mask.drop(*gone)))
    folder = tmp_path_factory.mktemp("checkpoint") / "cut"
    save_model(loaded.model, loaded.tokenizer, folder)
    return folder
