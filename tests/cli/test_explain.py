"""deadhead explain, on small runs of the bundled encoder."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
from command import MODEL, SMALL

from deadhead import load_model
from deadhead.cli import console, main
from deadhead.runs.settings import DataSettings

SAME_DATA = DataSettings(spec="bundled:sentiment", calibration_size=8, test_size=16)


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """4 heads in 4 steps, repaired by least squares."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        method = ("-c", "reconstruction", "-s", "greedy", "--repair", "least_squares")
        options = (*SMALL[:-2], *method, "--dtype", "float64", "-o", str(folder))
        patch.setattr(sys, "argv", ["deadhead", "prune", MODEL, *options])
        with suppress(SystemExit):
            main()
    return folder


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """The run, to be spoilt."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


def change(folder: Path, file: str, edit) -> None:
    values = json.loads((folder / file).read_text())
    edit(values)
    (folder / file).write_text(json.dumps(values))


@pytest.mark.slow
def test_the_last_divergence_is_that_of_the_checkpoint(deadhead, run):
    found = deadhead("explain", run, "--json")
    assert found.code == 0, found.err
    rows = found.json["rows"]
    loaded, cut = load_model(MODEL, dtype="float64"), load_model(str(run / "model"))
    batches = SAME_DATA.open(loaded.tokenizer, loaded.model.config).calibration.batches()
    divergences = []
    with torch.no_grad():
        for batch in batches:
            inputs = {k: v for k, v in batch.items() if k != "labels"}
            dense = loaded.model(**inputs).logits.log_softmax(-1)
            kept = cut.model(**inputs).logits.log_softmax(-1)
            divergences += ((dense.exp() * (dense - kept)).sum(-1)).tolist()
    assert rows[-1]["after"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-6)
    assert found.json["measured"] == len(divergences) == 8
    assert len(rows) == 4


def test_the_run_and_the_command_say_the_same(deadhead, run):
    found = deadhead("explain", run, "--json", "--no-measure").json
    written = json.loads((run / "run.json").read_text())["explanation"]
    assert found["measured"] == written["measured"] == 0
    assert found["criteria"] == written["criteria"]
    for ours, theirs in zip(found["rows"], written["rows"], strict=True):
        assert ours["ranks"] == theirs["ranks"]
        assert ours["scores"] == pytest.approx(theirs["scores"], rel=1e-6)
    page = (run / "report.html").read_text(encoding="utf-8")
    section = page[page.index("Removed heads") : page.index("Before and after")]
    assert section.count("<tr>") == 1 + 4
    assert all(f">{name}<" in section for name in found["criteria"])


def test_each_criterion_can_have_its_own_loss(deadhead, run):
    how = ("--no-measure", "--json", "-c", "taylor,gradient_norm")
    assert set(deadhead("explain", run, *how).json["criteria"].values()) == {"kl"}
    own = deadhead("explain", run, *how, "--loss", "own").json["criteria"]
    assert own == {"reconstruction": "kl", "taylor": "task", "gradient_norm": "logit_norm"}


def test_a_repair_weighted_by_another_loss_than_the_scores_is_the_runs(deadhead, run):
    how = ("--json", "-c", "none")
    as_run = deadhead("explain", run, *how).json["rows"]
    by_task = deadhead("explain", run, *how, "--loss", "task").json["rows"]
    assert [r["after"] for r in by_task] == pytest.approx([r["after"] for r in as_run])
    assert as_run[-1]["given_back"] != 0


@pytest.mark.parametrize("width", [240, 80])
def test_the_table_fits_the_terminal_and_nothing_is_written_into_the_run(
    deadhead, run, monkeypatch, tmp_path, width
):
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    monkeypatch.setattr(console.OUT, "_width", width)
    found = deadhead("explain", run, "-o", "heads.csv", "--samples", "4")
    assert found.code == 0, found.err
    assert "…" not in found.out
    assert all(name in found.out for name in ("KL", "regained", "attention_entropy", "taylor"))
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before
    table = pd.read_csv(tmp_path / "heads.csv")
    assert len(table) == 4
    assert set(table["reconstruction_rank"]) <= set(range(1, 25))
    known = table[["score", "change", "before", "after", "unrepaired", "given_back"]]
    assert not known.isna().to_numpy().any()


@pytest.mark.slow
def test_clusters_name_the_head_that_stands_for_each(deadhead, no_figures):
    how = ("--strategy", "clusters", "--action", "duplicate", "-o", "out", "--no-save")
    assert deadhead("prune", MODEL, *SMALL[:-2], *how).code == 0
    found = deadhead("explain", "out", "--json").json
    plan = json.loads(Path("out/plan.json").read_text())
    assert {row["head"]: row["source"] for row in found["rows"]} == plan["copies"]
    assert {(row["step"], row["together"], row["score"]) for row in found["rows"]} == {(1, 4, None)}
    assert {row["before"] for row in found["rows"]} == {0}
    assert len({row["after"] for row in found["rows"]} - {0}) == 1
    assert " as " in deadhead("explain", "out", "--no-measure").out


def test_a_run_that_removed_nothing_says_so(deadhead, copied):
    change(copied, "plan.json", lambda plan: plan.update(mask=[[1] * 6] * 4))
    assert "removed no heads" in deadhead("explain", copied).out
    assert deadhead("explain", copied, "--json").json["rows"] == []


def test_a_run_whose_last_model_alone_is_repaired_says_so(deadhead, copied):
    change(copied, "run.json", lambda v: v["run"]["settings"]["recipe"].update(repair_at="end"))
    assert "repaired its last model only" in deadhead("explain", copied, "--samples", "2").out


def test_model_and_data_may_have_moved(deadhead, copied, tmp_path):
    def move(values):
        values["run"]["settings"]["model"]["source"] = str(tmp_path / "gone")
        values["run"]["settings"]["data"]["spec"] = str(tmp_path / "gone-too")

    change(copied, "run.json", move)
    assert "say with --model where it is now" in deadhead("explain", copied).refused()
    refusal = deadhead("explain", copied, "--model", MODEL).refused()
    assert "say with --task (or --calibration) where they are now" in refusal
    here = ("--model", MODEL, "--task", "bundled:sentiment", "--device", "cpu")
    assert deadhead("explain", copied, *here, "--no-measure").code == 0


def test_an_older_run_that_says_less_is_still_read(deadhead, copied):
    def forget(values):
        del values["explanation"], values["run"]["weights"], values["run"]["settings"]

    change(copied, "run.json", forget)
    (copied / "scores.json").unlink()
    assert "does not say which model it pruned" in deadhead("explain", copied).refused()
    assert "no data is named" in deadhead("explain", copied, "--model", MODEL).refused()


@pytest.mark.parametrize(
    "path",
    ["settings", "settings.data", "settings.recipe", "settings.model", "data", "data.calibration"],
)
@pytest.mark.parametrize("odd", [["a list"], "text", 3])
def test_a_record_of_another_shape_is_one_line(deadhead, copied, path, odd):
    *before, last = path.split(".")

    def spoil(values):
        part = values["run"]
        for name in before:
            part = part[name]
        part[last] = odd

    change(copied, "run.json", spoil)
    found = deadhead("explain", copied, "--samples", "2")
    assert found.code == 2
    assert f"its '{last}' is" in found.err


def test_other_data_or_weights_are_refused(deadhead, copied, tmp_path):
    (tmp_path / "other.tsv").write_text("sentence\tlabel\n" + "good\t1\nbad film\t0\n")
    refusal = deadhead("explain", copied, "--calibration", tmp_path / "other.tsv").refused()
    assert "is not what the run calibrated on" in refusal
    model = shutil.copytree(copied / "model", tmp_path / "model")

    def point(values):
        values["run"]["settings"]["model"]["source"] = str(model)
        values["run"]["weights"] = "0" * 12

    change(copied, "run.json", point)
    assert "has changed since the run" in deadhead("explain", copied).refused()
    refusal = deadhead("explain", copied, "--model", model).refused()
    assert "does not hold the heads that the run began with" in refusal


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "it has no run.json"),
        (("empty",), "it has no run.json"),
        (("broken",), "cannot be read as a run"),
        (("RUN", "-c", "tayler"), "did you mean 'taylor'"),
        (("RUN", "--loss", "klo"), "loss 'klo' is not known"),
        (("RUN", "--samples", "0"), "is not a number of examples"),
        (("RUN", "--samples", "3", "--no-measure"), "is for measuring"),
        (("RUN", "-o", "heads.json"), "ends in .csv"),
    ],
)
def test_bad_input_is_one_line(deadhead, run, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for name in ("run.json", "plan.json"):
        (tmp_path / "broken" / name).write_text("[]")
    given = [run if a == "RUN" else a for a in arguments]
    assert words in deadhead("explain", *given).refused()
