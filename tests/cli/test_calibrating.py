"""Plain text to calibrate on: no labels, no pairs, whatever the model is judged by."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import MODEL

from deadhead.cli.plans import read_scores
from deadhead.options.values import DEFAULT_REPAIR

TEXTS = [f"the {w} film was {v}" for w in ("old", "new", "long") for v in ("good", "bad", "dull")]
JUDGED = ("--test", "bundled:sentiment", "--test-size", "16", "--no-speed", "--heads", "12")


@pytest.fixture(autouse=True)
def plain(tmp_path):
    """Text files in the folder where the command runs."""
    (tmp_path / "plain.txt").write_text("\n".join([*TEXTS, ""]))
    (tmp_path / "plain.tsv").write_text("\n".join(["sentence", *TEXTS, ""]))
    labeled = [f"{text}\t{number % 2}" for number, text in enumerate(TEXTS)]
    (tmp_path / "labeled.tsv").write_text("\n".join(["sentence\tlabel", *labeled, ""]))


@pytest.mark.parametrize("file", ["plain.txt", "plain.tsv"])
@pytest.mark.slow
def test_a_classifier_is_pruned_by_text_without_labels(deadhead, no_figures, tmp_path, file):
    found = deadhead("prune", MODEL, "--calibration", file, *JUDGED, "-o", "out")
    assert found.code == 0, found.err
    assert f"calibration: 9 examples of {file}" in " ".join(found.err.split())
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["repair"] == DEFAULT_REPAIR
    assert sum(map(sum, plan["mask"])) == 12


@pytest.mark.slow
def test_what_needs_labels_says_which_loss_does_not(deadhead, no_figures):
    said = deadhead("prune", MODEL, "--calibration", "plain.txt", *JUDGED, "-c", "taylor").refused()
    assert "the 'task' loss needs labels, and the batches have none" in said
    assert "choose the loss 'kl', which needs none" in said
    how = ("-c", "taylor", "-s", "one_shot", "--loss", "kl", "-o", "out")
    assert deadhead("prune", MODEL, "--calibration", "plain.txt", *JUDGED, *how).code == 0


@pytest.mark.slow
def test_scores_without_labels_are_those_with_them(deadhead, tmp_path):
    rows = []
    for file in ("plain.txt", "plain.tsv", "labeled.tsv"):
        how = ("--calibration", file, "-c", "fisher", "--loss", "kl", "-o", f"{file}.json")
        found = deadhead("score", MODEL, *how)
        assert found.code == 0, found.err
        rows.append(np.concatenate(read_scores(tmp_path / f"{file}.json", "fisher").values))
    np.testing.assert_allclose(rows[0], rows[2], rtol=1e-5)
    np.testing.assert_allclose(rows[1], rows[2], rtol=1e-5)


def test_a_plan_needs_text_alone(deadhead, tmp_path):
    assert deadhead("plan", MODEL, "--calibration", "plain.txt", "--heads", "50%").code == 0
    assert deadhead("apply", MODEL, "--calibration", "plain.txt", "-o", "cut").code == 0
    said = deadhead("evaluate", MODEL, "--test", "plain.tsv").refused()
    assert "no label among its columns sentence; name it with --label-column" in said


def test_minimal_pairs_are_judged_after_calibration_on_any_text(deadhead, no_figures):
    judged = ("--test", "bundled:agreement", "--test-size", "16", "--no-speed", "--heads", "50%")
    found = deadhead("prune", "bundled:decoder", "--calibration", "plain.txt", *judged, "-o", "out")
    assert found.code == 0, found.err
    assert "minimal_pairs, judged by accuracy" in found.err


def test_text_that_is_judged_too_is_refused(deadhead, tmp_path):
    (tmp_path / "test.tsv").write_text((tmp_path / "labeled.tsv").read_text())
    said = deadhead(
        "prune", MODEL, "--calibration", "plain.txt", "--test", "test.tsv", "--heads", "3"
    ).refused()
    assert "examples are in both calibration and test" in said


BUDGETS = [
    (("--budget", "parameters"), "'parameters' is not a budget; write what may stay"),
    (("--budget", "memory=50%"), "budget 'memory' is not known; known: flops"),
    (("--budget", "parameters=1%"), "budget parameters=0.01 cannot be reached: "),
    (("--budget", "flops=90%", "--budget", "flops=80%"), "has flops twice"),
    (("--budget", "kv_bytes=50%"), "BertForSequenceClassification keeps no keys and values"),
    (
        ("--budget", "flops=90%", "--heads", "3"),
        "it is for runs without --budget",
    ),
    (("--budget", "latency=90%", "-s", "search"), "is met step by step"),
    (("--heads", "5%", "--scope", "per_block"), "1 of 24 heads cannot be removed with"),
]


@pytest.mark.parametrize(("options", "words"), BUDGETS)
def test_budgets_that_cannot_be_had_are_refused(deadhead, tmp_path, options, words):
    judged = ("--test", "bundled:sentiment", "--test-size", "16", "--no-speed")
    asked = ("prune", MODEL, "--calibration", "plain.txt", *judged, "-o", "out")
    assert words in deadhead(*asked, *options).refused()
    assert not list(tmp_path.glob(".out*"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_latency_that_cannot_be_had_leaves_no_run_behind(deadhead, no_figures, tmp_path):
    judged = ("--test", "bundled:sentiment", "--test-size", "16", "--no-speed")
    asked = ("prune", MODEL, "--calibration", "plain.txt", *judged, "-o", "out", "-s", "one_shot")
    said = deadhead(*asked, "-c", "magnitude", "--budget", "latency=0.1%").refused()
    assert "budget latency=0.001 cannot be reached" in said
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.slow
def test_fewer_heads_than_were_asked_for_are_said_to_be(deadhead, no_figures, tmp_path):
    asked = ("--calibration", "plain.txt", "--heads", "90%", "--keep-at-least", "3")
    found = deadhead("plan", MODEL, *asked, "-c", "magnitude", "-s", "one_shot")
    words = "90% of the heads are 22; scope='global'"
    assert words in " ".join(found.err.split())
    judged = ("--test", "bundled:sentiment", "--test-size", "16", "--no-speed", "-o", "out")
    found = deadhead("prune", MODEL, *asked, *judged, "-c", "magnitude", "-s", "one_shot")
    assert "keep_at_least=3 allow 12 of 24 to be removed" in " ".join(found.err.split())
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert any(words in note for note in run["run"]["notes"])


@pytest.mark.slow
def test_several_texts_are_mixed_by_weight(deadhead, no_figures, tmp_path):
    given = ("--calibration", "plain.txt", "--calibration", "other.txt=0.5")
    (tmp_path / "other.txt").write_text("".join(f"one more film, the {i}th\n" for i in range(9)))
    found = deadhead("prune", MODEL, *given, "--calibration-size", "12", *JUDGED, "-o", "out")
    assert found.code == 0, found.err
    said = " ".join(found.err.split())
    assert "calibration: 12 examples of plain.txt and other.txt" in said
    run = json.loads((tmp_path / "out" / "run.json").read_text())["run"]
    assert run["settings"]["data"]["calibration"] == ["plain.txt", "other.txt=0.5"]
    assert deadhead("explain", "out").code == 0, "it finds both again"
    wrong = deadhead("prune", MODEL, "--calibration", "plain.txt=none", *JUDGED).refused()
    assert "'none' is no weight; write FILE=0.25, above 0" in wrong
