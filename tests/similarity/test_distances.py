"""Distances from inner products: by hand, of groups, as files, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from deadhead import Head, HeadModel, PruningPlan, remove_
from deadhead.errors import DataError, FileFormatError, HeadError, UnknownNameError
from deadhead.similarity import (
    HeadDistances,
    HeadGrams,
    head_grams,
    kv_units,
    read_distances,
    save_distances,
)
from deadhead.similarity.distances import distances
from models import batch, make

H = tuple(Head(0, i) for i in range(6))
SINGLE = tuple((head,) for head in H)


def grams_of(*vectors, block=0):
    """Grams of one cell whose heads have these vectors."""
    matrix = np.array(vectors, dtype=float)
    heads = tuple(Head(block, i) for i in range(len(matrix)))
    return HeadGrams((matrix @ matrix.T,), (heads,), 1, {"scope": "per_block"})


def made(matrix, units=None):
    units = SINGLE[: len(matrix)] if units is None else units
    return HeadDistances((np.array(matrix, dtype=float),), (tuple(units),), "euclidean", {})


def test_euclidean_and_cosine_by_hand():
    grams = grams_of([3, 0], [0, 4], [6, 0])
    found = distances(grams, "euclidean")
    np.testing.assert_array_equal(
        found.matrices[0], [[0, 5, 3], [5, 0, math.sqrt(52)], [3, math.sqrt(52), 0]]
    )
    found = distances(grams, "cosine")
    np.testing.assert_allclose(found.matrices[0], [[0, 1, 0], [1, 0, 1], [0, 1, 0]], atol=1e-15)
    assert found.metric == "cosine"
    assert found.units == (SINGLE[:3],)
    assert found.provenance == {"scope": "per_block", "prompts": 1}


def test_a_vector_of_zeros_is_one_away_from_all_others():
    found = distances(grams_of([0, 0], [1, 1], [0, 0]), "cosine")
    np.testing.assert_allclose(found.matrices[0], [[0, 1, 1], [1, 0, 1], [1, 1, 0]])


@pytest.mark.parametrize("metric", ("euclidean", "cosine"))
def test_distances_are_symmetric_and_never_below_zero(metric):
    rng = np.random.default_rng(0)
    vectors = rng.random((6, 9))
    vectors[4:] = vectors[:2] * (1 + 1e-15)  # rounding would take these below zero
    noise = rng.random((6, 6)) * 1e-15
    grams = HeadGrams((vectors @ vectors.T + noise,), (H,), 1)
    matrix = distances(grams, metric).matrices[0]
    assert (matrix == matrix.T).all()
    assert (np.diagonal(matrix) == 0).all()
    assert matrix.min() == 0
    assert matrix[0, 4] < 1e-6 < 1e-2 < matrix[0, 1]


@pytest.mark.parametrize("metric", ("euclidean", "cosine"))
def test_groups_are_compared_as_their_vectors_one_after_the_other(metric):
    rng = np.random.default_rng(1)
    vectors = rng.random((6, 9))
    groups = [H[0:2], H[2:4], H[4:6]]
    found = distances(grams_of(*vectors), metric, groups=groups)
    expected = distances(grams_of(*vectors.reshape(3, 18)), metric)
    np.testing.assert_allclose(found.matrices[0], expected.matrices[0], rtol=1e-12)
    assert found.units == (tuple(groups),)
    turned = distances(grams_of(*vectors), metric, groups=[H[0:2], (H[3], H[2])])
    assert abs(turned.matrices[0][0, 1] - found.matrices[0][0, 1]) > 1e-3


def test_key_value_groups_of_a_model():
    model = make("llama")
    view = HeadModel(model)
    units = kv_units(view)
    assert units[:2] == (tuple(Head(0, i) for i in (0, 1, 2)), tuple(Head(0, i) for i in (3, 4, 5)))
    assert len(units) == 6
    grams = head_grams(view, [batch()])
    found = distances(grams, "euclidean", groups=units)
    assert [m.shape for m in found.matrices] == [(2, 2)] * 3
    single = distances(grams, "euclidean")
    pairs = zip(units[2], units[3], strict=True)
    expected = math.sqrt(sum(single.between((a,), (b,)) ** 2 for a, b in pairs))
    assert found.between(units[2], units[3]) == pytest.approx(expected, rel=1e-12)
    remove_(model, PruningPlan(view.mask.drop(*units[3])))
    assert kv_units(HeadModel(model)) == units[:3] + units[4:]


def test_groups_may_leave_heads_and_blocks_out():
    one, two = grams_of([1, 0], [0, 1], [1, 1]), grams_of([1, 0], [0, 1], block=1)
    grams = HeadGrams(one.matrices + two.matrices, one.heads + two.heads, 1)
    found = distances(grams, "euclidean", groups=[(H[2],), (H[0],)])
    assert found.units == (((H[2],), (H[0],)), ())
    assert found.matrices[0].tolist() == [[0, 1], [1, 0]]
    assert found.matrices[1].shape == (0, 0)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([(Head(0, 7),)], "group '0.7' does not fit"),
        ([(H[0], Head(1, 0))], "group '0.0\\+1.0' does not fit"),
        ([()], "group '' does not fit"),
        ([(H[0], H[1]), (H[1], H[2])], "head 0.1 is in two groups"),
        ([(H[0], H[0])], "head 0.0 is in two groups"),
        ([(H[0], H[1]), (H[2],)], "'0.0\\+0.1' and '0.2' differ in size"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, message):
    one, two = grams_of([1, 0], [0, 1], [1, 1]), grams_of([1, 0], [0, 1], block=1)
    grams = HeadGrams(one.matrices + two.matrices, one.heads + two.heads, 1)
    with pytest.raises(HeadError, match=message):
        distances(grams, "euclidean", groups=groups)


def test_between_names_what_was_not_compared():
    one, two = grams_of([1, 0], [0, 1]), grams_of([1, 0], [0, 2], block=1)
    found = distances(HeadGrams(one.matrices + two.matrices, one.heads + two.heads, 1), "euclidean")
    assert found.between((Head(1, 0),), (Head(1, 1),)) == pytest.approx(math.sqrt(5))
    with pytest.raises(HeadError, match=r"no distances of 0\.5"):
        found.between((H[0],), (H[5],))
    with pytest.raises(HeadError, match=r'0\.0 and 1\.1 are in different blocks.*scope="global"'):
        found.between((H[0],), (Head(1, 1),))


def test_files_give_back_every_bit(tmp_path):
    rng = np.random.default_rng(2)
    grams = grams_of(*rng.random((6, 9)))
    empty = HeadGrams((*grams.matrices, np.zeros((0, 0))), (*grams.heads, ()), 1, {"scope": "x"})
    for groups in (None, [H[:3], H[3:]]):
        before = distances(empty, "cosine", groups=groups)
        save_distances(before, tmp_path / "new" / "distances.json")
        after = read_distances(tmp_path / "new" / "distances.json")
        assert after.units == before.units
        assert (after.metric, after.provenance) == (before.metric, before.provenance)
        for a, b in zip(after.matrices, before.matrices, strict=True):
            np.testing.assert_array_equal(a, b)
    assert "0.3" in (tmp_path / "new" / "distances.json").read_text()


def test_matrices_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        made([[0, 1], [1, 0]]).matrices[0][0, 1] = 2


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0, 1], [math.nan, 0]], "entry nan between 0.1 and 0.0 is not finite"),
        ([[0, math.inf], [math.inf, 0]], "entry inf between 0.0 and 0.1 is not finite"),
        ([[math.nan]], "entry nan between 0.0 and 0.0 is not finite"),
        ([[0, -1], [-1, 0]], "entry -1.0 between 0.0 and 0.1 is negative"),
        ([[0, 1, 2], [1, 0, 3], [2, 4, 0]], "entry 3.0 between 0.1 and 0.2 differs from its"),
        ([[0, 1], [1, 2]], "entry 2.0 between 0.1 and 0.1 is a head's distance to itself"),
        ([[0, 1, 2], [1, 0, 3]], r"matrix 0 has shape \(2, 3\); its 2 heads need \(2, 2\)"),
        ([[0]], r"has shape \(1, 1\); its 2 heads need \(2, 2\)"),
    ],
)
def test_matrices_that_are_no_distances_are_refused(matrix, message):
    units = SINGLE[:2] if matrix == [[0]] else SINGLE[: len(matrix)]
    with pytest.raises(DataError, match=message):
        made(matrix, units)


def test_rounding_is_not_asymmetry():
    assert made([[0, 1], [1 + 1e-12, 0]]).between(SINGLE[0], SINGLE[1]) == 1


def test_every_list_of_heads_needs_a_matrix():
    with pytest.raises(DataError, match="1 distance matrices for 2 lists"):
        HeadDistances((np.zeros((1, 1)),), (SINGLE[:1], ()), "cosine")


def test_unknown_metrics_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        distances(grams_of([1, 0]), "cosin")
    with pytest.raises(UnknownNameError, match="known: cosine, euclidean"):
        HeadDistances((), (), "manhattan")


def test_files_that_hold_no_distances_are_refused(tmp_path):
    path = tmp_path / "distances.json"
    with pytest.raises(DataError, match=r"no file .*distances\.json"):
        read_distances(path)
    path.write_text("{")
    with pytest.raises(FileFormatError, match="is not JSON"):
        read_distances(path)
    good = made([[0, 1], [1, 0]]).to_json()
    for broken in (
        {**good, "units": [["0.1"]]},
        {k: v for k, v in good.items() if k != "matrices"},
        {**good, "matrices": [[[0, "far"], ["far", 0]]]},
        {**good, "matrices": [[0, 1]]},
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises((DataError, HeadError), match=r"not distances|is not a head"):
            read_distances(path)
    for matrix, message in (
        ([[0, 1], [1]], "2 rows has one of 1 entries; it has to be square"),
        ([[0, 1], [None, 0]], "entry nan between 0.1 and 0.0 is not finite"),
        ([[0, math.nan], [math.nan, 0]], "entry nan between 0.0 and 0.1 is not finite"),
    ):
        path.write_text(json.dumps({**good, "matrices": [matrix]}))
        with pytest.raises(DataError, match=message):
            read_distances(path)
