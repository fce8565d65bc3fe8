"""One small run, filled in completely, and one with nothing but the necessary."""

from __future__ import annotations

import numpy as np
import pytest

from deadhead.measure import SpeedRow
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.report import RunSummary
from deadhead.studies.baseline import RandomBaseline
from deadhead.types import Head, HeadMask, HeadScores, PruningPlan

COUNTS = (4, 2, 3)


def make_trajectory(counts=COUNTS, n_steps=4, dense=0.9, loss=0.05, **kwargs) -> Trajectory:
    """Drop one head a step, in order, and lose `loss` of the metric each time."""
    mask = HeadMask.full(counts)
    start, steps = Step(mask, (), dense, 0.5), []
    for i, head in enumerate(mask.heads[:n_steps]):
        mask = mask.drop(head)
        steps.append(Step(mask, (head,), dense - loss * (i + 1), 0.25, (0.1,)))
    return Trajectory(start, tuple(steps), **kwargs)


def make_speed(**changes) -> SpeedRow:
    values = {
        "setting": "forward",
        "batch": 1,
        "length": 128,
        "ms_before": 10.6,
        "ms_after": 10.0,
        "speedup": 1.06,
        "low": 1.05,
        "high": 1.065,
        "ceiling": 1.07,
        "device": "cpu, 2 threads",
        "repeats": 30,
    }
    return SpeedRow(**{**values, **changes})


def make_random(metric=0.5, n_draws=20) -> RandomBaseline:
    """Draw the metric evenly from a band of 0.1, at every sparsity."""
    draws = [metric + d for d in np.linspace(-0.05, 0.05, n_draws)]
    return RandomBaseline((0.0, 0.5, 1.0), tuple((d,) * 3 for d in draws))


@pytest.fixture(scope="session")
def scores() -> HeadScores:
    rng = np.random.default_rng(0)
    return HeadScores(tuple(rng.random(n) for n in COUNTS), "taylor")


@pytest.fixture(scope="session")
def bare(scores) -> RunSummary:
    """A summary without speed, baseline, evaluation, sizes or provenance."""
    trajectory = make_trajectory()
    return RunSummary("bare", trajectory, scores, PruningPlan(trajectory.steps[-1].mask))


@pytest.fixture(scope="session")
def full(scores) -> RunSummary:
    trajectory = make_trajectory()
    data = {"calibration": {"fingerprint": "aaa1", "size": 64}, "test": {"fingerprint": "bbb2"}}
    return RunSummary(
        title="tiny: greedy taylor",
        trajectory=trajectory,
        scores=scores,
        plan=PruningPlan(
            trajectory.steps[-1].mask,
            copies={Head(0, 1): Head(1, 0)},
            provenance={"strategy": "greedy"},
        ),
        model={
            "name": "someone/tiny",
            "model_type": "llama",
            "parameters_before": 1000,
            "parameters_after": 920,
            "kv_bytes_per_token_before": 512,
            "kv_bytes_per_token_after": 256,
        },
        speed=[make_speed(), make_speed(setting="decode", length=64)],
        evaluation={
            "dense": {"accuracy": 0.9, "f1": 0.88},
            "pruned": {"accuracy": 0.7, "f1": 0.66},
            "interval": {"dense": [0.85, 0.95], "pruned": [0.65, 0.75]},
            "chance": 0.5,
            "divergence": {
                "test": {"value": 0.02, "interval": [0.01, 0.03], "texts": 9},
                "own": {"value": 0.5, "interval": [None, None], "texts": 1},
            },
        },
        random=make_random(),
        run={
            "command": "deadhead prune tiny --task sst2 -o out",
            "versions": {"torch": "2.13"},
            "data": data,
            "seed": 0,
            "date": "2025-11-21",
            "seconds": 61.0,
        },
    )
