import json
from dataclasses import replace

import numpy as np
import pytest

from deadhead.errors import FileFormatError
from deadhead.report import RunSummary
from deadhead.studies.baseline import RandomBaseline


@pytest.mark.parametrize("which", ["full", "bare"])
def test_json_reads_back_to_an_equal_summary(which, request):
    summary = request.getfixturevalue(which)
    text = json.dumps(summary.to_json(), allow_nan=False)
    assert RunSummary.from_json(json.loads(text)) == summary


def test_a_summary_without_scores_reads_back(full):
    summary = replace(full, scores=None)
    assert RunSummary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    assert summary.chosen_by == "greedy"
    assert full.chosen_by == "taylor"


def test_json_takes_numpy_and_nan(full):
    odd = {"dense": {"accuracy": np.float32(0.5)}, "pruned": {"accuracy": float("nan")}}
    text = json.dumps(replace(full, evaluation=odd).to_json(), allow_nan=False)
    back = RunSummary.from_json(json.loads(text)).evaluation
    assert back == {"dense": {"accuracy": 0.5}, "pruned": {"accuracy": None}}


@pytest.mark.parametrize("data", [{}, {"title": 1}, []])
def test_other_json_is_refused(data):
    with pytest.raises(FileFormatError, match="this is not a run summary"):
        RunSummary.from_json(data)


def test_evaluation_wins_over_the_curve(full, bare):
    assert full.after == 0.7
    changed = replace(full, evaluation={"pruned": {"accuracy": 0.6}})
    assert (changed.before, changed.after) == (0.9, 0.6)
    assert bare.after == pytest.approx(0.7)


def test_baseline_that_broke_down_reads_back_as_nan(full):
    """A perplexity can overflow for random heads; JSON has no word for it."""
    broken = RandomBaseline((0.0, 1.0), ((0.9, float("inf")), (0.9, 0.5)))
    text = json.dumps(replace(full, random=broken).to_json(), allow_nan=False)
    back = RunSummary.from_json(json.loads(text)).random
    assert back.values[1] == (0.9, 0.5)
    assert np.isnan(back.mean[1])
