"""Runs that tests share."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
from small_run import settings

from deadhead.runs.prune import run_prune
from deadhead.runs.run_settings import RunSettings


@pytest.fixture
def no_figures(monkeypatch):
    """Leave out the report: figures take most of the time of a small run."""
    module = importlib.import_module("deadhead.runs.prune")  # the function has its name
    monkeypatch.setattr(module, "write_report", lambda summary, folder: None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[RunSettings, object]:
    """A run that nothing disturbed: (settings, summary)."""
    asked = settings(tmp_path_factory.mktemp("finished") / "run")
    return asked, run_prune(asked)


@pytest.fixture
def again(finished, tmp_path) -> RunSettings:
    """The same run, to another folder."""
    return replace(finished[0], output=tmp_path / "run")
