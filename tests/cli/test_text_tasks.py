"""Every kind of text task through the command: judged, pruned, reported; bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers as hf

from tiny_text import CASES, HEADS, save

FIRST = [(kind, HEADS[kind][2][0]) for kind in HEADS if kind != "classification"]
METRICS = {
    "regression": ("pearson", True),
    "multi_label": ("micro_f1", True),
    "token_classification": ("f1", True),
    "question_answering": ("f1", True),
    "masked_lm": ("pseudo_perplexity", False),
    "multiple_choice": ("accuracy", True),
    "seq2seq": ("chrf", True),
}


@pytest.mark.parametrize(
    ("kind", "family"), [case for case in CASES if case[0] != "classification"]
)
def test_a_model_is_judged(deadhead, tmp_path, kind, family):
    model, data = save(tmp_path, kind, family)
    found = deadhead("evaluate", model, "--task", data, "--json")
    assert found.code == 0, found.err
    metric, _ = METRICS[kind]
    assert found.json["metric"] == metric
    assert found.json["data"]["size"] == 5
    low, high = found.json["interval"]
    assert low <= found.json["value"] <= high


@pytest.mark.parametrize(("kind", "family"), FIRST)
@pytest.mark.slow
def test_a_model_is_pruned_reported_and_judged_again(deadhead, tmp_path, kind, family):
    model, data = save(tmp_path, kind, family)
    found = deadhead("prune", model, "--task", data, "--heads", "25%", "--no-speed", "-o", "out")
    assert found.code == 0, found.err
    run = json.loads(Path("out/run.json").read_text())
    metric, greater = METRICS[kind]
    assert run["trajectory"]["metric"] == metric
    assert run["trajectory"]["greater_is_better"] is greater
    assert metric in run["evaluation"]["dense"]
    better = "higher" if greater else "lower"
    assert f"{metric} ({better} is better)" in Path("out/report.html").read_text()
    auto = run["model"]["auto_class"]
    assert auto != "AutoModel"
    loaded = getattr(hf, auto).from_pretrained("out/model")
    assert type(loaded).__name__ == family + HEADS[kind][0]
    again = deadhead("evaluate", "out/model", "--task", data, "--json").json
    assert again["value"] == pytest.approx(run["evaluation"]["pruned"][metric], rel=1e-4)


@pytest.mark.parametrize(("kind", "family"), FIRST)
def test_heads_are_scored_by_labels(deadhead, tmp_path, kind, family):
    model, data = save(tmp_path, kind, family)
    given = ("--calibration", data, "-c", "taylor", "--loss", "task", "-o", "scores.json")
    found = deadhead("score", model, *given)
    assert found.code == 0, found.err
    values = json.loads(Path("scores.json").read_text())["taylor"]["values"]
    assert any(abs(float(value)) > 0 for row in values for value in row)


@pytest.mark.parametrize(
    ("kind", "family", "asked", "words"),
    [
        ("regression", "Bert", ("--kind", "multiple_choice"), "'multiple_choice' does not fit"),
        ("seq2seq", "T5", ("--kind", "question_answering"), "no 'question' among its columns"),
        ("masked_lm", "Bert", ("--kind", "token_clasification"), "mean 'token_classification'"),
        ("masked_lm", "Bert", ("--kind", "regression"), "'regression' does not fit"),
        ("multiple_choice", "Bert", ("--label-column", "odd"), "column 'odd' is not known"),
    ],
)
def test_what_does_not_fit_is_refused(deadhead, tmp_path, kind, family, asked, words):
    model, data = save(tmp_path, kind, family)
    assert words in deadhead("evaluate", model, "--task", data, *asked).refused()
