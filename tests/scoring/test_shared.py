"""ScorerGroup: many criteria, each by its own loss, in as few passes as there are losses."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from deadhead import HeadModel, score
from deadhead.scoring import Scorer, ScorerGroup
from deadhead.scoring.passes import PassSettings
from masks import random_mask
from models import batch, make

NAMES = ["taylor", "gradient_norm", "reconstruction", "fisher", "output_norm", "magnitude"]
MIXED = "taylor+reconstruction"  # its parts share one loss


@pytest.mark.slow
def test_each_is_scored_as_it_is_alone_also_under_masks():
    model = make("bert")
    whole = HeadModel(model).mask
    scorers = ScorerGroup(model, [batch(), batch(seed=2)], [*NAMES, MIXED])
    for mask in (whole, random_mask(whole, 1), random_mask(whole, 2), whole):
        for name in (*NAMES, MIXED):
            found = scorers.of(name)(mask)
            alone = score(model, [batch(), batch(seed=2)], name, mask=mask)
            assert found.provenance == alone.provenance, name
            for a, b in zip(found.values, alone.values, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-7, err_msg=name)


@pytest.mark.parametrize(("loss", "passes"), [(None, 3), ("kl", 1), ("task", 1)])
def test_the_whole_model_is_looked_at_once_per_loss(loss, passes):
    ticks = []
    scorers = ScorerGroup(
        make("bert"),
        iter([batch()]),
        NAMES,
        loss=loss,
        moments=True,
        settings=PassSettings(on_batch=lambda: ticks.append(1)),
    )
    for name in (*NAMES, *NAMES):
        scorers.of(name)()
    _ = scorers.moments
    assert len(ticks) == passes, "task, logit_norm and kl, or the one that was named"


@pytest.mark.parametrize("names", (["taylor"], ["magnitude"], ["reconstruction", "taylor"]))
def test_moments_are_those_of_kl_whoever_else_is_asked(names):
    model = make("bert")
    scorers = ScorerGroup(model, [batch()], names, moments=True)
    expected = Scorer(model, [batch()], None).moments
    for found, alone in zip(
        scorers.moments.gradient_weighted, expected.gradient_weighted, strict=True
    ):
        assert torch.equal(found.second, alone.second)


def test_who_tries_out_masks_is_paid_for_alone(monkeypatch):
    clock = iter(range(0, 1000, 7))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    names = ["ablation", "taylor", "fisher", "magnitude"]
    scorers = ScorerGroup(make("bert"), [batch()], names)
    looks = {name: scorers.of(name).run_pass() for name in names}
    assert looks == {"ablation": 7, "taylor": 7, "fisher": 7, "magnitude": 0}
    assert next(clock) == 4 * 7, "two looks: ablation's, and one that the others share"
    assert scorers.of("taylor").run_pass() == 7
