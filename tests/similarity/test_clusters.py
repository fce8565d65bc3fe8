"""Ward trees on the right distances, cut into as many groups as asked, and their medoids."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster import hierarchy

from deadhead.errors import BudgetError, DataError, UnknownNameError
from deadhead.similarity.clusters import cut_tree, linkage, representative
from deadhead.similarity.distances import METRICS


def on_a_line(*places):
    points = np.array(places, dtype=np.float64)
    return np.abs(points[:, None] - points)


def vectors(n=7, size=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, size))


def cosine(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    matrix = 1 - unit @ unit.T
    np.fill_diagonal(matrix, 0)
    return matrix


def euclidean(rows):
    return np.linalg.norm(rows[:, None] - rows, axis=2)


@pytest.mark.parametrize("seed", range(5))
def test_ward_on_cosine_is_ward_on_the_unit_vectors(seed):
    rows = vectors(seed=seed)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(
        linkage(cosine(rows), "cosine"), hierarchy.linkage(unit, "ward"), atol=1e-12
    )


@pytest.mark.parametrize("ward_on", ["unit", "raw"])
def test_ward_on_euclidean_is_ward_on_the_vectors(ward_on):
    rows = vectors()
    np.testing.assert_allclose(
        linkage(euclidean(rows), "euclidean", ward_on=ward_on),
        hierarchy.linkage(rows, "ward"),
        atol=1e-12,
    )


def test_raw_takes_cosine_distances_as_they_are():
    matrix = cosine(vectors())
    raw = linkage(matrix, "cosine", ward_on="raw")
    upper = matrix[np.triu_indices(len(matrix), 1)]
    np.testing.assert_array_equal(raw, hierarchy.linkage(upper, "ward"))
    assert not np.allclose(raw[:, 2], linkage(matrix, "cosine")[:, 2])


def test_cosines_of_equal_heads_may_round_below_zero():
    matrix = np.array([[0, -2e-16, 0.5], [-2e-16, 0, 0.5], [0.5, 0.5, 0]])
    tree = linkage(matrix, "cosine")
    assert tree[0, 2] == 0
    assert cut_tree(tree, 2) == [[0, 1], [2]]


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_a_tree(metric):
    assert linkage(on_a_line(0, 0.1, 0.9), metric).shape == (2, 4)


def test_one_unit_is_one_group():
    assert cut_tree(linkage(np.zeros((1, 1)), "cosine"), 1) == [[0]]


def test_groups_come_by_their_smallest_member():
    tree = linkage(on_a_line(9, 0, 9.2, 0.1, 5), "euclidean")
    assert cut_tree(tree, 5) == [[0], [1], [2], [3], [4]]
    assert cut_tree(tree, 4) == [[0], [1, 3], [2], [4]]
    assert cut_tree(tree, 3) == [[0, 2], [1, 3], [4]]
    assert cut_tree(tree, 2) == [[0, 2, 4], [1, 3]]
    assert cut_tree(tree, 1) == [[0, 1, 2, 3, 4]]


def test_ties_still_give_the_number_of_groups_asked_where_fcluster_gives_fewer():
    tree = linkage(on_a_line(0, 0, 5, 5, 9, 9), "euclidean")  # three pairs of equal heads
    assert len(set(hierarchy.fcluster(tree, 5, "maxclust"))) == 3
    for n in range(1, 7):
        groups = cut_tree(tree, n)
        assert len(groups) == n
        assert sorted(unit for members in groups for unit in members) == list(range(6))


@pytest.mark.parametrize("n", [0, 4, -1])
def test_groups_that_cannot_be_had_are_refused(n):
    with pytest.raises(BudgetError, match=rf"^{n} groups of 3 units; ask for 1 to 3$"):
        cut_tree(linkage(on_a_line(0, 1, 3), "euclidean"), n)


def test_the_medoid_has_the_smallest_summed_distance():
    matrix = on_a_line(0, 10, 4, 5, 100)
    assert representative(matrix, [0, 1, 2, 3]) == 2  # sums 19, 21, 11, 11: a tie
    assert representative(matrix, [0, 1, 3]) == 3
    assert representative(matrix, [4]) == 4


def test_medoid_ties_go_to_the_lower_row():
    matrix = on_a_line(0, 10, 4, 5)
    assert representative(matrix, [1, 0]) == 0
    assert representative(matrix, [3, 2]) == 2
    assert representative(1 - np.eye(5), [4, 2, 3]) == 2


def test_rounding_breaks_no_tie():
    # each row sums 0.1, 0.2, 0.3 in another order, which added up left to right differs
    a, b, c = 0.1, 0.2, 0.3
    matrix = np.array([[0, a, b, c], [a, 0, c, b], [b, c, 0, a], [c, b, a, 0]])
    assert sum(matrix[0].tolist()) > sum(matrix[2].tolist())
    assert representative(matrix, range(4)) == 0


def test_a_random_representative_is_a_seeded_draw():
    def draws(seed):
        rng = np.random.default_rng(seed)
        return [
            representative(np.zeros((9, 9)), [2, 5, 7], how="random", rng=rng) for _ in "x" * 30
        ]

    assert draws(1) == draws(1) != draws(2)
    assert set(draws(1)) == {2, 5, 7}


def test_a_random_representative_needs_a_generator():
    with pytest.raises(DataError, match="none was given: rng="):
        representative(np.zeros((2, 2)), [0, 1], how="random")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5])
def test_an_entry_that_is_no_distance_is_named(bad):
    matrix = on_a_line(0, 1, 3, 7)
    matrix[1, 3] = matrix[3, 1] = bad
    with pytest.raises(DataError, match=f"^the distance between 1 and 3 is {bad}"):
        linkage(matrix, "euclidean")


def test_a_medoid_among_nans_is_refused_and_named():
    matrix = on_a_line(0, 1, 3, 7)
    matrix[1, 3] = matrix[3, 1] = np.nan
    assert representative(matrix, [0, 1, 2]) == 1
    with pytest.raises(DataError, match="the distance between 1 and 3 is nan"):
        representative(matrix, [0, 3, 1])


def test_a_matrix_that_is_one_sided_is_refused():
    with pytest.raises(DataError, match=r"^the distance between 0 and 1 is 1\.0 \(and 0\.0 the"):
        linkage(np.triu(on_a_line(0, 1, 3)), "euclidean")


@pytest.mark.parametrize("shape", [(2, 3), (0, 0), (4,)])
def test_what_is_not_square_is_refused(shape):
    with pytest.raises(DataError, match="give a square matrix, a row per unit"):
        linkage(np.zeros(shape), "euclidean")


def test_unknown_names_are_refused():
    matrix = on_a_line(0, 1)
    with pytest.raises(UnknownNameError, match="distance 'cosin' is not known; did you mean 'cos"):
        linkage(matrix, "cosin")
    with pytest.raises(UnknownNameError, match="ward_on 'units' is not known; did you mean 'unit'"):
        linkage(matrix, "cosine", ward_on="units")
    with pytest.raises(UnknownNameError, match="representative 'mediod' is not known; did you mea"):
        representative(matrix, [0, 1], how="mediod")
