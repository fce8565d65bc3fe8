"""What a finished run leaves: one folder that says all of it, and a model that loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import transformers
from small_run import outcome, settings

from deadhead import HeadModel, HeadScores, PruningPlan, Trajectory, open_task
from deadhead.display import number
from deadhead.errors import BudgetError, OutputExistsError, ScoreError
from deadhead.report import RunSummary, caveats
from deadhead.runs.prune import run_prune
from deadhead.runs.run_settings import Watch
from deadhead.runs.settings import DataSettings, ModelSettings

FILES = {
    "plan.json",
    "scores.json",
    "trajectory.csv",
    "run.json",
    "report.html",
    "figures/curve.png",
    "figures/curve.svg",
    "figures/head_map.png",
    "figures/head_map.svg",
    "model/README.md",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
}


def read(file: Path):
    return json.loads(file.read_text())


@pytest.mark.slow
def test_the_folder_holds_what_the_design_lists_and_nothing_else(finished):
    folder = finished[0].output
    assert {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} == FILES
    assert list(folder.parent.iterdir()) == [folder]


def test_every_file_reads_back_equal(finished):
    asked, summary = finished
    folder = asked.output
    assert PruningPlan.from_json(read(folder / "plan.json")) == summary.plan
    assert HeadScores.from_json(read(folder / "scores.json")) == summary.scores
    frame = pd.read_csv(folder / "trajectory.csv", dtype={"dropped": str, "score": str})
    assert Trajectory.from_frame(frame, summary.plan.mask.counts) == summary.trajectory
    values = {n: read(folder / f"{n}.json") for n in ("run", "plan", "scores")}
    back = RunSummary.from_json({**values.pop("run"), **values})
    assert back.trajectory == summary.trajectory
    assert back.random == summary.random
    assert back.to_json() == summary.to_json()


def test_the_run_says_what_made_it(finished):
    run = read(finished[0].output / "run.json")["run"]
    assert run["command"] == "deadhead prune ..."
    assert set(run["versions"]) == {"python", "deadhead", "torch", "transformers", "numpy"}
    assert set(run["data"]) == {"calibration", "selection", "test"}  # nothing is trained
    assert all(len(d["fingerprint"]) == 12 for d in run["data"].values())
    asked = finished[0].header()
    decided = {k: run["settings"]["recipe"][k] for k in ("criterion", "strategy", "loss")}
    assert run["settings"] == {**asked, "recipe": {**asked["recipe"], **decided}}
    assert "{strategy} {criterion}".format(**decided) in run["decision"]["divergences"]


def test_plain_auto_model_loads_it_and_is_as_accurate_as_reported(finished):
    folder = finished[0].output
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    data = finished[0].data
    tasks = open_task("bundled:sentiment", tokenizer, config=model.config, test_size=data.test_size)
    found = tasks.test.evaluate(model.eval()).metrics
    summary = finished[1]
    assert found == read(folder / "run.json")["evaluation"]["pruned"]
    assert found["accuracy"] == summary.after == summary.trajectory.steps[-1].metric
    assert HeadModel(model).mask == summary.plan.mask


def test_the_run_and_the_card_say_how_far_the_model_is_from_the_dense_one(finished):
    folder, evaluation = finished[0].output, finished[1].evaluation
    assert read(folder / "run.json")["evaluation"]["divergence"] == evaluation["divergence"]
    assert list(evaluation["divergence"]) == ["test", "own"]
    card = (folder / "model" / "README.md").read_text()
    for found in evaluation["divergence"].values():
        low, high = found["interval"]
        assert 0 < low <= found["value"] <= high
        assert f"{number(found['value'])} ({number(low)} to {number(high)})" in card


@pytest.mark.slow
def test_the_same_settings_give_the_same_run_and_another_seed_another(
    finished, again, no_figures, tmp_path
):
    run_prune(again)
    assert outcome(again.output) == outcome(finished[0].output)
    other = settings(tmp_path / "other", seed=1)
    assert run_prune(other).random != finished[1].random


def test_the_plan_is_the_last_step_and_the_baseline_starts_at_the_dense_model(finished):
    summary = finished[1]
    assert summary.plan.mask == summary.trajectory.steps[-1].mask
    assert len(summary.plan.mask.dropped) == 8
    random = summary.random
    assert random.sparsity == (0.0, 8 / 24, 0.5, 1.0)
    assert {row[0] for row in random.values} == {summary.trajectory.dense}
    assert len({row[-1] for row in random.values}) == 1  # no heads at all: the same for every draw


@pytest.mark.slow
def test_the_random_baseline_obeys_the_rules(no_figures, tmp_path):
    asked = settings(tmp_path / "run", keep_at_least=2, save=False)
    assert run_prune(asked).random.sparsity == (0.0, 8 / 24, 0.5, 16 / 24)


def test_a_run_without_checkpoint_writes_none(no_figures, tmp_path):
    asked = settings(tmp_path / "run", random=0, save=False)
    assert run_prune(asked).random is None
    assert not (asked.output / "model").exists()


@pytest.mark.parametrize("strategy", ["greedy", pytest.param("one_shot", marks=pytest.mark.slow)])
def test_a_cut_model_is_cut_again_in_its_original_indices(finished, no_figures, tmp_path, strategy):
    first = finished[1].plan.mask
    asked = settings(tmp_path / "run", heads=14, strategy=strategy)
    asked = replace(asked, model=ModelSettings(str(finished[0].output / "model")))
    summary = run_prune(asked)
    assert summary.trajectory.start.mask == first
    assert summary.trajectory.dense == finished[1].after
    assert summary.plan.mask <= first
    assert len(summary.plan.mask.dropped) == 14
    assert all(np.isnan(summary.scores[h]) for h in first.dropped)
    model = transformers.AutoModel.from_pretrained(asked.output / "model")
    assert HeadModel(model).mask == summary.plan.mask


@pytest.mark.slow
def test_a_model_with_blocks_without_heads_runs_and_can_lose_the_rest(no_figures, tmp_path):
    asked = settings(tmp_path / "run", heads=20, random=0)
    summary = run_prune(asked)
    assert not all(map(any, summary.plan.mask.kept)), "a block should be empty here"
    rest = replace(
        settings(tmp_path / "rest", heads=1.0), model=ModelSettings(str(asked.output / "model"))
    )
    assert run_prune(rest).plan.mask.n_kept == 0
    none = replace(rest, output=tmp_path / "none", model=ModelSettings(str(rest.output / "model")))
    with pytest.raises(BudgetError, match=r"24 are removed already.*no head can be"):
        run_prune(none)


def test_a_decoder_is_judged_on_pairs_and_says_what_its_cache_takes(no_figures, tmp_path):
    asked = replace(
        settings(tmp_path / "run", heads=4),
        model=ModelSettings("bundled:decoder"),
        data=DataSettings("bundled:agreement", calibration_size=12, test_size=24),
    )
    facts = run_prune(asked).model
    assert facts["auto_class"] == "AutoModelForCausalLM"
    assert facts["kv_bytes_per_token_after"] == facts["kv_bytes_per_token_before"] * 12 / 16


def test_the_card_of_a_run_names_no_base_model_that_is_not_on_the_hub(finished):
    card = (finished[0].output / "model" / "README.md").read_text()
    assert "base_model" not in card
    assert "AutoModelForSequenceClassification" in card


def test_how_the_data_was_divided_is_written_down(no_figures, tmp_path):
    rows = [json.dumps({"text": f"fine film {i}", "label": i % 2}) + "\n" for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    file = str(tmp_path / "rows.jsonl")
    data = DataSettings(calibration=file, test=file, allow_overlap=True)
    summary = run_prune(replace(settings(tmp_path / "run", random=0), data=data))
    run = read(tmp_path / "run" / "run.json")["run"]
    assert sum("overlap allowed: 12 examples" in note for note in run["notes"]) == 1
    assert all(f"Data: {note}." in caveats(summary) for note in run["notes"])
    assert "overlap allowed" in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_under_max_drop_what_is_compared_is_on_test(no_figures, tmp_path):
    summary = run_prune(settings(tmp_path / "run", max_drop=0.9, save=False))
    assert summary.evaluated_on == "selection"
    dense = summary.random.values[0][0]
    assert dense == summary.before, "the baseline and the reported numbers are of one set"
    assert any("measured on selection" in line for line in caveats(summary))


def test_an_output_that_is_not_empty_is_refused_before_the_model_is_loaded(finished):
    missing = replace(finished[0], model=ModelSettings("no-such-model"))
    with pytest.raises(OutputExistsError, match="is not empty; choose another with -o"):
        run_prune(missing)


def test_a_run_that_cannot_be_done_leaves_nothing(tmp_path, monkeypatch):
    def broken(*args, **options):
        raise ScoreError("planted")

    monkeypatch.setattr("deadhead.pruning.loop.AutoSelector", broken)
    with pytest.raises(ScoreError, match="planted"):
        run_prune(settings(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_negative_number_of_draws_is_refused():
    with pytest.raises(BudgetError, match="-1 random draws; give 0"):
        settings(Path("x"), random=-1)


@pytest.mark.parametrize(
    "changes",
    [{}, {"random": 0}, {"random": 3, "strategy": "one_shot"}, {"max_drop": 0.0, "random": 0}],
)
@pytest.mark.slow
def test_the_bar_counts_to_its_end(no_figures, tmp_path, changes):
    totals, work = [], []
    asked = settings(tmp_path / "run", save=False, **changes)
    run_prune(asked, watch=Watch(on_total=totals.append, on_work=work.append))
    assert totals[-1] == len(work)
    assert len(work) <= totals[0]  # draws may coincide, steps may end early
