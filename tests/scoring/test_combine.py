"""Several criteria joined by +: the mean of their ranks."""

from __future__ import annotations

import numpy as np
import pytest

from deadhead import Head, HeadModel, HeadScores, score, score_all
from deadhead.errors import UnknownNameError
from deadhead.scoring.spec import CriterionSpec
from models import batch, make


def scores(*rows, name="taylor"):
    return HeadScores(tuple(np.array(row, dtype=float) for row in rows), name, {"samples": 3})


def together(first, second):
    spec = CriterionSpec.parse("taylor+magnitude")
    return spec.combined({"taylor": first, "magnitude": second})


def test_ranks_are_averaged_whatever_the_scales():
    found = together(scores([1, 1e9, 3], [-5, 2]), scores([1e-9, 2e-9, 5e-9], [3e-9, 4e-9]))
    # ranks of the first: 1 4 3 0 2, of the second: 0 1 4 2 3, of 4
    np.testing.assert_allclose(np.concatenate(found.values), np.array([1, 5, 7, 2, 5]) / 8)
    assert found.counts == (3, 2)
    assert (found.criterion, found.provenance["taylor"]["samples"]) == ("taylor+magnitude", 3)


def test_ties_share_their_rank_and_go_to_the_lower_block():
    found = together(scores([7, 7, 7], [7]), scores([0, 1, 1], [2]))
    np.testing.assert_allclose(np.concatenate(found.values), [1 / 4, 1 / 2, 1 / 2, 3 / 4])
    assert found.ranking()[1:3] == [Head(0, 1), Head(0, 2)]


def test_a_head_that_one_did_not_score_is_not_scored():
    found = together(scores([1, np.nan, 3, -np.inf]), scores([4, 3, np.nan, 5]))
    np.testing.assert_allclose(found.values[0], [(0.5 + 0.5) / 2, np.nan, np.nan, (0 + 1) / 2])


def test_nothing_scored_is_nothing_combined():
    nothing = scores([np.nan, np.nan])
    assert np.isnan(together(nothing, scores([1, 2])).values[0]).all()


def test_one_head_alone_has_a_rank():
    assert together(scores([5, np.nan]), scores([5, np.nan])).values[0][0] == 0


def test_a_criterion_with_itself_ranks_as_alone():
    model = make("bert")
    alone = score(model, None, "magnitude")
    twice = score(model, None, "magnitude+magnitude")
    assert twice.ranking() == alone.ranking()
    assert (np.concatenate(twice.values).min(), np.concatenate(twice.values).max()) == (0, 1)


def test_parts_share_their_passes_with_others(monkeypatch):
    model, seen = make("bert"), []
    names = ["taylor+attention_entropy:normalized=true", "taylor", "fisher"]
    found = score_all(model, [batch()], names, on_batch=lambda: seen.append(1))
    assert len(seen) == 1
    assert list(found) == names
    alone = score(model, [batch()], "taylor")
    np.testing.assert_allclose(np.stack(found["taylor"].values), np.stack(alone.values))


def test_under_a_mask_ranks_run_over_the_heads_that_are_left():
    model = make("bert")
    mask = HeadModel(model).mask.drop(Head(0, 0), Head(2, 5))
    found = score(model, [batch()], "taylor+magnitude", mask=mask)
    assert {h for h in mask.dropped if not np.isnan(found[h])} == set()
    parts = score_all(model, [batch()], ["taylor", "magnitude"], mask=mask)
    order = {name: s.ranking() for name, s in parts.items()}
    for head in mask.heads:
        ranks = [ranking.index(head) / 15 for ranking in order.values()]
        assert found[head] == pytest.approx(np.mean(ranks))


def test_a_plus_in_an_option_joins_nothing():
    spec = "reconstruction:ridge=1e+0+taylor+file:path=a+b/c++.npy:key=x+fisher"
    assert [part.text for part in CriterionSpec.parse(spec).parts] == [
        "reconstruction:ridge=1e+0",
        "taylor",
        "file:path=a+b/c++.npy:key=x",
        "fisher",
    ]


@pytest.mark.parametrize("spec", ("taylor+", "+taylor", "taylor++magnitude", "+"))
def test_an_empty_part_is_refused(spec):
    with pytest.raises(UnknownNameError, match="has an empty part; join names by '\\+'"):
        CriterionSpec.parse(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("taylor+magnitud", "did you mean 'magnitude'"), ("", "criterion '' is not known")],
)
def test_an_unknown_part_is_refused(spec, message):
    with pytest.raises(UnknownNameError, match=message):
        score(make("bert"), [batch()], spec)
