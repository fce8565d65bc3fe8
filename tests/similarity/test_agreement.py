"""Clusterings that agree, those that do not, and what chance would do."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from deadhead import Head, HeadScores
from deadhead.errors import BudgetError, DataError, HeadError, ScoreError
from deadhead.similarity.agreement import adjusted_rand, agreement, removed_share
from deadhead.similarity.distances import HeadDistances
from deadhead.similarity.groupings import Group, group


def clustering(*blocks):
    """Make groups from labels: `"aab"` is a block whose heads 0 and 1 are together."""
    groups: dict[object, list] = {}
    for block, labels in enumerate(blocks):
        for index, label in enumerate(labels):
            # a capital spans blocks
            key = label if label.isupper() else (block, label)
            groups.setdefault(key, []).append((Head(block, index),))
    return tuple(Group(first, tuple(others)) for first, *others in groups.values())


def test_the_same_groups_agree_whatever_their_order_and_representatives():
    first = clustering("aabbc", "abab")
    second = tuple(Group(g.members[-1], g.members[:-1]) for g in reversed(first))
    assert adjusted_rand(first, second) == 1


def test_one_block_is_the_adjusted_rand_index():
    found = adjusted_rand(clustering("aabbcc"), clustering("aaabbb"))
    assert found == pytest.approx(adjusted_rand_score([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]))
    assert 0 < found < 1


def test_blocks_are_compared_apart_and_weighted_by_their_heads():
    first, second = clustering("aabb", "aabbcc"), clustering("aabb", "aaabbb")
    apart = adjusted_rand_score([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1])
    assert adjusted_rand(first, second) == pytest.approx((4 * 1 + 6 * apart) / 10)


def test_that_blocks_are_apart_is_no_agreement():
    # heads of different blocks are never together: over all heads, that would count as agreement
    one, other = [0, 0, 0, 1, 1], [0, 1, 1, 1, 1]
    assert adjusted_rand_score(one, other) < 0
    overall = [[x + 2 * block for block in range(9) for x in row] for row in (one, other)]
    assert adjusted_rand_score(*overall) > 0.3
    found = adjusted_rand(clustering(*["aaabb"] * 9), clustering(*["abbbb"] * 9))
    assert found == pytest.approx(adjusted_rand_score(one, other))


def test_groups_that_span_blocks_are_compared_over_all_blocks():
    # inside each block both have single heads only; across blocks they are different
    first, second = clustering("AB", "AB"), clustering("AB", "BA")
    assert adjusted_rand(first, first) == 1
    assert adjusted_rand(first, second) == adjusted_rand_score([0, 1, 0, 1], [0, 1, 1, 0]) < 0


def cells_of_units(blocks, cells, units, size=1):
    """Distances of 0 between the units of each cell; `cells` cells in each block."""
    made = []
    for block in range(blocks):
        for cell in range(cells):
            first = [(cell * units + unit) * size for unit in range(units)]
            made.append(tuple(tuple(Head(block, f + i) for i in range(size)) for f in first))
    blank = tuple(np.zeros((units, units)) for _ in made)
    return HeadDistances(blank, tuple(made), "euclidean")


@pytest.mark.parametrize(
    ("cells", "n_drop"),
    [
        (cells_of_units(3, cells=2, units=4), 12),  # single heads within key/value groups
        (cells_of_units(3, cells=2, units=4), 3),  # most cells lose nothing: all units alone
        (cells_of_units(3, cells=2, units=3), 11),  # most cells keep one: all units together
        (cells_of_units(3, cells=1, units=6, size=2), 18),  # whole key/value groups
        (cells_of_units(3, cells=1, units=8), 12),
    ],
)
@pytest.mark.slow
def test_random_groups_agree_by_chance_only(cells, n_drop):
    drawn = [group(cells, "random", n_drop, seed=seed) for seed in range(400)]
    pairs = zip(drawn[::2], drawn[1::2], strict=True)
    values = [adjusted_rand(a, b) for a, b in pairs]
    assert np.std(values) > 0.05
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert adjusted_rand(drawn[0], drawn[0]) == 1


def test_key_value_groups_of_a_block_are_compared_apart():
    units = [(Head(0, index),) for index in range(8)]

    def made(*groups):
        return tuple(
            Group(units[first], tuple(units[i] for i in others), first // 4)
            for first, *others in groups
        )

    one, other = made([0, 1], [2, 3], [4, 5], [6, 7]), made([0, 2], [1, 3], [4, 6], [5, 7])
    apart = adjusted_rand_score([0, 0, 1, 1], [0, 1, 0, 1])
    assert adjusted_rand(one, other) == pytest.approx(apart)
    labels = [0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3]
    assert apart < adjusted_rand_score(*labels)  # which is higher: the block is one cell


def test_groups_over_the_model_are_compared_with_groups_in_blocks_where_both_could_join():
    overall, within = clustering("AAB", "ABB"), clustering("aab", "abb")
    assert adjusted_rand(overall, within) == 1  # in each block they are the same


def test_groupings_know_their_cells():
    cells = cells_of_units(2, cells=2, units=3)
    groups = group(cells, "balanced", 4)
    assert {g.cell for g in groups} == {0, 1, 2, 3}
    assert all(set(g.members) <= set(cells.units[g.cell]) for g in groups)


def test_what_cannot_differ_is_no_agreement():
    first, second = clustering("aabb", "abcd", "aaa"), clustering("abab", "abcd", "aaa")
    assert adjusted_rand(first, second) == adjusted_rand_score([0, 0, 1, 1], [0, 1, 0, 1])
    assert adjusted_rand(clustering("AB", "AB"), clustering("ab", "ab")) == 0


def test_single_heads_agree_with_single_heads_only():
    assert adjusted_rand(clustering("abcd"), clustering("dcba")) == 1
    assert adjusted_rand(clustering("a"), clustering("a")) == 1
    assert adjusted_rand(clustering("abcd"), clustering("aabb")) == 0


def test_key_value_groups_count_once():
    # as heads, the two heads of each unit would always be together
    def units(*groups):
        made = [[(Head(0, 2 * u), Head(0, 2 * u + 1)) for u in g] for g in groups]
        return tuple(Group(first, tuple(others)) for first, *others in made)

    assert adjusted_rand(units([0, 1], [2, 3]), units([0, 2], [1, 3])) == pytest.approx(
        adjusted_rand(clustering("aabb"), clustering("abab"))
    )


def test_clusterings_of_different_heads_are_refused():
    with pytest.raises(HeadError, match=r"of different units: 0\.3 is in one only"):
        adjusted_rand(clustering("aabb"), clustering("aab"))


def test_agreement_compares_every_pair_of_draws_between_and_within_names():
    one = [clustering("aabbcc"), clustering("aaabbb"), clustering("abcabc")]
    two = [clustering("aabbcc"), clustering("abbbbb")]
    frame = agreement({"one": one, "two": two}, seed=0)
    assert frame[["first", "second", "pairs"]].values.tolist() == [
        ["one", "one", 3],
        ["one", "two", 6],
        ["two", "two", 1],
    ]
    within = [adjusted_rand(a, b) for a, b in combinations(one, 2)]
    between = [adjusted_rand(a, b) for a in one for b in two]
    numbers = frame[["mean", "low", "high"]].to_numpy()
    for row, values in zip(numbers, (within, between), strict=False):
        wanted = [np.mean(values), *np.percentile(values, (2.5, 97.5))]
        np.testing.assert_allclose(row, wanted, rtol=1e-12)
    assert np.isnan(numbers[2, 1:]).all()  # of one pair


def test_a_name_with_one_clustering_is_compared_with_others_only():
    frame = agreement({"one": [clustering("aab")], "two": [clustering("aab")]})
    assert frame[["first", "second", "mean"]].values.tolist() == [["one", "two", 1.0]]


def test_many_pairs_are_sampled_with_the_seed():
    rng = np.random.default_rng(0)
    many = [clustering("".join(rng.choice(list("abc"), 8))) for _ in range(12)]

    def mean(seed):
        frame = agreement({"all": many}, seed=seed, max_pairs=10)
        assert frame["pairs"].tolist() == [10]
        return frame["mean"].tolist()

    assert mean(1) == mean(1) != mean(2)
    assert agreement({"all": many})["pairs"].tolist() == [66]


def test_nothing_to_compare_is_refused():
    with pytest.raises(DataError, match="'two' has no grouping"):
        agreement({"one": [clustering("ab")], "two": []})
    for few in ({}, {"one": [clustering("ab")]}):
        with pytest.raises(DataError, match="give two to compare"):
            agreement(few)


def scores(*rows):
    return HeadScores(tuple(np.array(row, dtype=np.float64) for row in rows), "table")


def test_the_share_of_important_heads_is_counted():
    plan = clustering("aabb", "abcc")  # drops 0.1, 0.3 and 1.3
    found = removed_share(plan, scores([0, 9, 0, 1], [8, 7, 0, 6]), 0.5)
    # important are 0.1, 1.0, 1.1 and 1.3: two of the four go
    assert (found.share, found.expected) == (0.5, 3 / 8)
    assert (found.n_important, found.n_dropped, found.n_heads) == (4, 3, 8)


def test_chance_is_what_random_heads_would_hit():
    plan = clustering("aabb" * 5, "abcd" * 5)  # 18 and 16 of 20 heads go
    importance = scores(range(20), range(20))
    found = removed_share(plan, importance, 10)
    rng = np.random.default_rng(0)
    hits = [(rng.choice(40, found.n_dropped, replace=False) < 10).mean() for _ in range(2000)]
    shares = np.array(hits) * found.n_dropped / 10
    assert found.expected == pytest.approx(34 / 40)
    assert found.expected == pytest.approx(shares.mean(), abs=0.01)
    assert found.low == pytest.approx(np.percentile(shares, 2.5), abs=0.1)
    assert found.high == pytest.approx(np.percentile(shares, 97.5), abs=0.1)
    assert 0 <= found.low < found.expected < found.high <= 1


def test_a_plan_that_drops_nothing_drops_nothing_important():
    found = removed_share(clustering("abcd"), scores([1, 2, 3, 4]), 0.5)
    assert (found.share, found.expected, found.low, found.high) == (0, 0, 0, 0)


def test_ties_in_importance_go_to_the_lower_index():
    assert removed_share(clustering("aab"), scores([1, 1, 1]), 1).share == 0  # 0.0 stays
    assert removed_share(clustering("aab"), scores([1, 1, 1]), 2).share == 0.5


def test_heads_outside_the_groups_do_not_count():
    part = (Group((Head(0, 2),), ((Head(0, 1),),)),)
    found = removed_share(part, scores([np.nan, 5, 1]), 1)
    assert (found.share, found.n_heads) == (1, 2)


def test_shares_that_cannot_be_had_are_refused():
    plan = clustering("aabb")
    with pytest.raises(BudgetError, match=r"0\.1 of 4 heads is no head"):
        removed_share(plan, scores([1, 2, 3, 4]), 0.1)
    with pytest.raises(BudgetError, match=r"a fraction is in \(0, 1\]"):
        removed_share(plan, scores([1, 2, 3, 4]), 1.5)
    with pytest.raises(ScoreError, match=r"importance of 0\.2 is nan"):
        removed_share(plan, scores([1, 2, np.nan, 4]), 0.5)
    with pytest.raises(HeadError, match=r"no importance of head 0\.3"):
        removed_share(plan, scores([1, 2, 3]), 0.5)
