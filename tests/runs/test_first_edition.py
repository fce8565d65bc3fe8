"""What the first edition wrote (commit 2e8c61c) is read by this one and means the same.

The run is `deadhead prune bundled:encoder --task bundled:sentiment --heads 50% --strategy greedy
--criterion gradient_norm --calibration-size 64 --test-size 64`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from deadhead import HeadModel, HeadScores, PruningPlan, apply_, evaluate, load_model
from deadhead.runs.explain import FinishedRun
from deadhead.tasks import open_task

RUN = Path(__file__).parent / "first_edition"


@pytest.fixture(scope="module")
def plan() -> PruningPlan:
    return PruningPlan.from_json(json.loads((RUN / "plan.json").read_text()))


@pytest.fixture(scope="module")
def cut(plan):
    loaded = load_model("bundled:encoder")
    apply_(loaded.model, plan)
    return loaded


def test_run_and_scores_are_read(plan):
    run = FinishedRun.read(RUN)
    assert run.summary.plan == plan
    assert run.removed == 12
    scores = HeadScores.from_json(json.loads((RUN / "scores.json").read_text()))
    assert scores.criterion == "gradient_norm"
    first = run.summary.trajectory.steps[0].dropped[0]
    assert scores.ranking()[0] == first


def test_the_plan_cuts_to_the_same_accuracy(cut):
    task = open_task(
        "bundled:sentiment",
        cut.tokenizer,
        config=cut.model.config,
        calibration_size=64,
        test_size=64,
    )
    written = json.loads((RUN / "run.json").read_text())["evaluation"]["pruned"]
    assert dict(evaluate(cut.model, task.judge).metrics) == pytest.approx(written)


def test_the_checkpoint_loads(cut, plan, tmp_path):
    cut.model.save_pretrained(tmp_path)
    shutil.copy(RUN / "model/config.json", tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert HeadModel(loaded).mask == plan.mask
