"""file: scores from a table, in original indices."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deadhead import Head, HeadModel, PruningPlan, remove_, score, score_all
from deadhead.errors import DataError, HeadError, ScoreError, UnknownNameError
from masks import random_mask
from models import batch, make

TABLE = np.arange(18.0).reshape(3, 6)[::-1]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.npy"
    np.save(path, TABLE)
    return path


def test_it_is_the_table_and_needs_no_data(table):
    scores = score(make("bert"), None, f"file:path={table}")
    np.testing.assert_array_equal(np.stack(scores.values), TABLE)
    assert scores.ranking()[0] == (2, 0)


def test_a_mask_or_a_cut_changes_no_score_and_no_index(table):
    model = make("llama")
    mask = random_mask(HeadModel(model).mask, 0)
    spec = f"file:path={table}"
    expected = np.where(np.array(mask.kept), TABLE, np.nan)
    np.testing.assert_array_equal(np.stack(score(model, None, spec, mask=mask).values), expected)
    remove_(model, PruningPlan(mask, gqa="ungroup"))
    np.testing.assert_array_equal(np.stack(score(model, None, spec).values), expected)


def test_what_score_wrote_is_read_back_by_its_key(tmp_path):
    model = make("bert")
    names = ["taylor", "magnitude", "attention_entropy:normalized=true"]
    found = score_all(model, [batch()], names)
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({name: s.to_json() for name, s in found.items()}))
    for name in names:
        again = score(model, None, f"file:path={path}:key={name}")
        np.testing.assert_array_equal(np.stack(again.values), np.stack(found[name].values))


def test_heads_that_the_table_does_not_score_are_not_scored(tmp_path):
    holes = TABLE.copy()
    holes[1, 2] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    scores = score(make("bert"), None, f"file:path={tmp_path / 'holes.npy'}")
    assert np.isnan(scores[Head(1, 2)])
    assert len(scores.ranking()) == 17


def test_beside_others_it_looks_at_nothing(table):
    seen = []
    names = ["taylor", f"file:path={table}"]
    scores = score_all(make("bert"), [batch()], names, on_batch=lambda: seen.append(1))
    assert set(scores) == set(names)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (None, "", DataError, "needs a table; write file:path=table.npy"),
        (None, ":path=", DataError, "needs a table; write file:path=table.npy"),
        (None, ":file=x.npy", UnknownNameError, "option of file 'file' is not known"),
        ("gone.npy", ":path={}", DataError, "gone.npy"),
        ("table.txt", ":path={}", DataError, "its ending is none of"),
        ("table.npy", ":path={}:key=taylor", DataError, "leave out the key 'taylor'"),
        ("small.npy", ":path={}", HeadError, "give the table of this model"),
        ("nan.npy", ":path={}", ScoreError, "every value is NaN"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, name, options, error, message):
    np.save(tmp_path / "table.npy", TABLE)
    np.save(tmp_path / "small.npy", TABLE[:, :4])
    np.save(tmp_path / "nan.npy", TABLE * np.nan)
    (tmp_path / "table.txt").write_text("1 2 3")
    spec = "file" + options.format(tmp_path / name if name else "")
    with pytest.raises(error, match=message) as caught:
        score(make("bert"), None, spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ("a+b", "c:d"))
def test_paths_may_hold_what_separates_options(tmp_path, folder):
    (tmp_path / folder).mkdir()
    np.save(tmp_path / folder / "table.npy", TABLE)
    scores = score(make("bert"), None, f"file:path={tmp_path / folder / 'table.npy'}")
    np.testing.assert_array_equal(np.stack(scores.values), TABLE)
