"""--compute-metrics and --metric, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import SMALL

OWN = """
def compute(given):
    right = given.predictions.argmax(1) == given.label_ids
    return {"right": right.mean(), "wrong": (~right).mean()}

def nothing(given):
    return None
"""


@pytest.fixture(autouse=True)
def file(tmp_path):
    (tmp_path / "own.py").write_text(OWN)


def test_prune_is_judged_by_a_function_of_a_file(deadhead):
    asked = ("--compute-metrics", "own.py:compute", "--metric", "wrong", "--lower-is-better")
    found = deadhead("prune", "bundled:encoder", *SMALL, *asked, "-o", "out", "--json")
    assert found.code == 0, found.err
    run = json.loads(Path("out/run.json").read_text())
    assert run["trajectory"]["metric"] == found.json["metric"] == "wrong"
    assert run["trajectory"]["greater_is_better"] is False
    assert 0 <= run["evaluation"]["dense"]["wrong"] < 0.5
    assert "wrong (lower is better)" in Path("out/report.html").read_text()


def test_evaluate_is_judged_by_another_metric(deadhead):
    found = deadhead(
        "evaluate", "bundled:encoder", "-t", "bundled:sentiment", "--metric", "mcc", "--json"
    ).json
    assert found["metric"] == "mcc"
    low, high = found["interval"]
    assert low < found["value"] < high


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--compute-metrics", "own.py:nothing"), "returns a NoneType; return a dictionary"),
        (("--compute-metrics", "own.py:wrong"), "'wrong' is not known"),
        (("--compute-metrics", "own.py"), "names no function; write FILE.py:FUNCTION"),
        (("--metric", "f1"), "metric of classification: 'f1' is not known; known: accuracy, macro"),
        (("--compute-metrics", "own.py:compute", "--metric", "f1"), "known: right, wrong"),
    ],
)
def test_what_gives_no_number_is_refused(deadhead, asked, words):
    given = ("evaluate", "bundled:encoder", "-t", "bundled:sentiment", "--test-size", "16")
    assert words in deadhead(*given, *asked).refused()
