"""The script that puts runs into one table and one figure."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deadhead.report import curve_figure

SCRIPT = Path(__file__).parents[2] / "scripts" / "tabulate_runs.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("tabulate_runs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(summary, folder):
    folder.mkdir(parents=True)
    values = summary.to_json()
    for name in ("plan", "scores"):
        (folder / f"{name}.json").write_text(json.dumps(values.pop(name)))
    (folder / "run.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    "titles",
    [
        ["a: greedy taylor", "b: greedy taylor", "c: greedy taylor"],
        ["a: greedy taylor"] * 3,
        ["/x/a: greedy", "/y/a: greedy", "a: greedy"],
    ],
)
def test_each_run_is_a_row_and_a_curve(full, script, titles, tmp_path, monkeypatch, capsys):
    folders = [
        write(replace(full, title=title), tmp_path / str(i) / "run")
        for i, title in enumerate(titles)
    ]
    runs = script.named(folders)
    assert len(runs) == 3
    figure = curve_figure({name: run.trajectory for name, run in runs.items()})
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(set(legend)) == 4, "the dense model and every run"
    assert not any("/" in name for name in legend)
    arguments = [str(folder) for folder in folders]
    monkeypatch.setattr(sys, "argv", ["x", *arguments, "--figure", str(tmp_path / "all")])
    script.main()
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3 + 1
    assert table[-1].startswith("| random, 20 draws")
    assert (tmp_path / "all.png").is_file()


def test_a_run_without_scores_is_read(full, script, tmp_path):
    folder = write(replace(full, scores=None), tmp_path / "run")
    (folder / "scores.json").unlink()
    assert len(script.named([folder])) == 1
