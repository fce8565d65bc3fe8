"""Repairs of plans that come from files: what is fitted, and what is said about the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import MODEL

from deadhead import Head, HeadModel, PruningPlan, load_model
from deadhead.cli.plans import fits_of
from deadhead.errors import DataError
from deadhead.repair import repair_
from deadhead.runs.settings import DataSettings
from models import batch, outputs

GONE = (Head(0, 1), Head(0, 4), Head(1, 0), Head(2, 3))
SEQUENTIAL = "least_squares_sequential"


@pytest.fixture
def plan(tmp_path):
    """A plan.json in the folder where the command runs."""
    found = PruningPlan(HeadModel(load_model(MODEL).model).mask.drop(*GONE), repair=SEQUENTIAL)
    (tmp_path / "plan.json").write_text(json.dumps(found.to_json()))
    return found


def data(size):
    return ("-t", "bundled:sentiment", "--calibration-size", str(size))


@pytest.mark.slow
def test_a_sequential_repair_is_applied_as_by_hand(deadhead, plan, tmp_path):
    told = deadhead("apply", MODEL, *data(32), "-o", "cut")
    assert told.code == 0, told.err
    loaded = load_model(MODEL)
    settings = DataSettings(spec="bundled:sentiment", calibration_size=32)
    batches = settings.open_one("calibration", loaded.tokenizer, loaded.model.config).batches()
    repair_(loaded.model, batches, plan)
    saved = load_model(str(tmp_path / "cut")).model
    torch.testing.assert_close(outputs(saved, batch()), outputs(loaded.model, batch()))
    assert json.loads(deadhead("apply", MODEL, *data(32), "-o", "b", "--json").out)


@pytest.mark.parametrize("repair", ["least_squares", SEQUENTIAL])
@pytest.mark.slow
def test_fewer_tokens_than_unknowns_are_said(deadhead, plan, repair):
    few = deadhead("apply", MODEL, *data(1), "--repair", repair, "-o", "few")
    assert few.code == 0, few.err
    (line,) = [line for line in few.err.splitlines() if line.startswith("note: the repair")]
    assert "calibration tokens for" in line
    assert line.endswith("give more calibration texts")
    many = deadhead("apply", MODEL, *data(64), "--repair", repair, "-o", "many")
    assert "calibration tokens for" not in many.err
    assert "calibration tokens" not in deadhead("apply", MODEL, "--repair", "none", "-o", "c").err


def test_fewer_tokens_than_unknowns_are_refused_where_one_is_strict(plan):
    settings = DataSettings(spec="bundled:sentiment", calibration_size=1)
    with pytest.raises(DataError, match="unknowns per output feature"):
        fits_of(load_model(MODEL), [(Path("plan.json"), plan)], settings, strict=True)
