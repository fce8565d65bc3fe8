"""One pass over the prompts of a draw serves both scopes, and tables are named by file and key."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest

from deadhead import Head, HeadModel, PruningPlan, remove_
from deadhead.report.page import Page
from deadhead.runs.run_settings import SimilaritySettings, Watch
from deadhead.runs.settings import ModelSettings
from deadhead.runs.similarity import run_similarity
from deadhead.similarity import Clustering, head_grams
from deadhead.similarity.gram import per_block
from models import batch, make

SHORTENED = ("0.1", "0.3", *(f"2.{i}" for i in range(6)))  # a block loses all its heads


@pytest.mark.parametrize("first_token", ["keep", "renormalize"])
@pytest.mark.parametrize(
    ("model_type", "drops"), [("opt", ()), ("opt", SHORTENED), ("albert", ()), ("bert", ())]
)
def test_blocks_are_slices_of_the_whole_model(model_type, drops, first_token):
    model = make(model_type, "causal_lm" if model_type == "opt" else "classification")
    if drops:
        heads = [Head.parse(name) for name in drops]
        remove_(model, PruningPlan(HeadModel(model).mask.drop(*heads)))
    view = HeadModel(model)
    inputs, how = [batch((9, 6, 4)), batch((7, 5))], {"first_token": first_token}
    direct = head_grams(view, inputs, **how)
    sliced = per_block(head_grams(view, inputs, scope="global", **how), len(view.blocks))
    assert sliced.heads == direct.heads
    assert sliced.provenance == direct.provenance
    assert sliced.prompts == direct.prompts
    for mine, theirs in zip(sliced.matrices, direct.matrices, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=0)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    monkeypatch.setattr(Page, "write", lambda page, folder: None)
    return SimilaritySettings(
        model=ModelSettings("bundled:decoder"),
        clustering=Clustering(),
        output=tmp_path / "out",
        n=4,
        draws=1,
    )


@pytest.mark.parametrize("grouping", ["balanced", "global"])
def test_every_draw_is_run_once(asked, monkeypatch, grouping):
    module = importlib.import_module("deadhead.runs.similarity")
    seen = []
    monkeypatch.setattr(
        module, "head_grams", lambda view, batches, **how: seen.append(batches) or head_grams(
            view, batches, **how
        )
    )  # fmt: skip
    totals, done = [], []
    watch = Watch(on_total=totals.append, on_work=done.append)
    asked = replace(asked, clustering=Clustering(grouping=grouping), draws=3, importance="taylor")
    run_similarity(asked, watch=watch)
    assert len(seen) == 3
    assert totals == [len(done)]
