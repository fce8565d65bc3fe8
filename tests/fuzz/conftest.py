"""One world for all fuzz tests."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import Command, World

from deadhead.runs.journal import JOURNAL, Journal, partial_folder

conduct = importlib.import_module("deadhead.runs.prune")


@pytest.fixture(scope="session")
def command() -> Command:
    return Command()


@pytest.fixture(scope="session")
def world(tmp_path_factory, command) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("fuzz"))
    before = Path.cwd()
    os.chdir(made.folder)
    try:
        data = ("-t", "rows.jsonl", "--calibration-size", "8", "--test-size", "4")
        small = (*data, "--no-speed", "--no-save", "--heads", "2", "-c", "magnitude")
        for args in (
            ("score", "model", "-c", "magnitude", "-o", "scores.json"),
            ("plan", "model", "--scores", "scores.json", "-c", "magnitude", "--heads", "3"),
        ):
            code, said = command(*args)
            assert code == 0, said
        made.prune = ("prune", "model", *small)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conduct, "write_report", lambda summary, folder: None)
            patch.setattr(Journal, "remove", lambda self: None)
            code, said = command(*made.prune, "-o", "run")
        assert code == 0, said
        shutil.copy(partial_folder(Path("run")) / JOURNAL, JOURNAL)
        yield made
    finally:
        os.chdir(before)


@pytest.fixture
def here(world, monkeypatch) -> World:
    """The world, as the working folder."""
    monkeypatch.chdir(world.folder)
    monkeypatch.setattr(conduct, "write_report", lambda summary, folder: None)
    return world
