"""An output that cannot be written is refused before anything is loaded."""

from __future__ import annotations

import os

import pytest

DATA = ("--task", "bundled:sentiment", "--calibration-size", "8")
COMMANDS = {
    "score": ("score", "no-model", *DATA, "--criterion", "magnitude", "-o"),
    "plan": ("plan", "no-model", *DATA, "--heads", "50%", "-o"),
    "explain": ("explain", "no-run", "-o"),
}


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_is_no_file_is_refused_first(command, kind, deadhead, tmp_path):
    output = tmp_path / "output.csv"
    output.mkdir() if kind == "folder" else os.mkfifo(output)
    line = deadhead(*COMMANDS[command], output).refused()
    assert "is not a regular file; choose another with -o" in line
    assert output.exists()
