"""Trajectories: what one reads off a curve."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deadhead import Head, HeadMask, Step, Trajectory
from deadhead.errors import BudgetError

WHOLE = HeadMask.full([2, 2])


def curve(*metrics, greater=True):
    """A trajectory that drops one head a step, in order."""
    steps, mask = [], WHOLE
    for at, metric in enumerate(metrics):
        dropped = () if at == 0 else (WHOLE.heads[at - 1],)
        mask = mask.drop(*dropped)
        scores = tuple(0.1 * at for _ in dropped)
        steps.append(Step(mask, dropped, metric, 0.5, scores))
    return Trajectory(steps[0], tuple(steps[1:]), "accuracy", greater)


def test_masks_only_shrink():
    bigger = Step(WHOLE, (), 0.5, 0)
    smaller = Step(WHOLE.drop(Head(0, 0)), (Head(0, 0),), 0.5, 0)
    with pytest.raises(BudgetError, match="masks only shrink"):
        Trajectory(smaller, (bigger,))


def test_at_is_linear_between_evaluated_steps_and_nan_beyond():
    found = curve(1.0, 0.8, float("nan"), 0.4)
    assert found.dense == 1.0
    assert found.at(sparsity=0.25) == 0.8
    assert found.at(sparsity=0.5) == pytest.approx(0.6)
    assert np.isnan(found.at(sparsity=1.0))


def test_largest_keeping_looks_past_a_dip():
    assert curve(1.0, 0.5, 0.96, 0.9).largest_keeping(0.95) == 0.5
    assert curve(1.0, 0.5, 0.4, 0.3).largest_keeping(0.95) == 0.0


def test_largest_keeping_of_a_perplexity_counts_upwards():
    assert curve(10.0, 10.4, 11.0, 12.0, greater=False).largest_keeping(0.95) == 0.25


def test_auc_is_normalized_by_the_span():
    assert curve(1.0, 1.0, 1.0, 1.0, 1.0).auc() == pytest.approx(1)
    assert curve(1.0, 0.5, 0.0).auc() == pytest.approx(0.5)


def test_json_and_data_frame_round_trips():
    found = curve(0.9, float("nan"), 0.123456789012345, 0.1)
    again = Trajectory.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    frame = found.to_frame()
    back = Trajectory.from_frame(frame, WHOLE.counts)
    for other in (again, back):
        assert [s.mask for s in other] == [s.mask for s in found]
        assert [s.scores for s in other] == [s.scores for s in found]
        np.testing.assert_array_equal([s.metric for s in other], [s.metric for s in found])


def test_round_trip_of_a_run_that_started_from_a_cut_model():
    start = Step(WHOLE.drop(Head(0, 0)), (), 0.9, 0.5)
    step = Step(WHOLE.drop(Head(0, 0), Head(1, 0)), (Head(1, 0),), 0.8, 0.5, (0.1,))
    found = Trajectory(start, (step,))
    assert Trajectory.from_frame(found.to_frame(), WHOLE.counts) == found


def test_csv_round_trip(tmp_path):
    import pandas as pd

    found = curve(0.9, float("nan"), 0.123456789012345, 0.1)
    found.to_frame().to_csv(tmp_path / "t.csv", index=False)
    frame = pd.read_csv(tmp_path / "t.csv", dtype={"dropped": str, "score": str})
    back = Trajectory.from_frame(frame, WHOLE.counts)
    assert [s.dropped for s in back] == [s.dropped for s in found]
    assert [s.scores for s in back] == [s.scores for s in found]
