"""Groupings drop exactly as many heads as asked, and the ones that their definitions say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster import hierarchy

from deadhead import Head, HeadScores
from deadhead.errors import BudgetError, DataError, HeadError, ScoreError, UnknownNameError
from deadhead.similarity.clusters import linkage
from deadhead.similarity.distances import HeadDistances
from deadhead.similarity.groupings import GROUPINGS, Group, copies_of, group, labels_of

SCORES = "importance_budget"


def distances(*matrices, blocks=None, size=1, metric="euclidean"):
    """Lay units of `size` heads along the rows; `blocks` says how many units each block has."""
    rows = [len(m) for m in matrices]
    units = [
        tuple(Head(block, unit * size + i) for i in range(size))
        for block, n in enumerate(blocks or rows)
        for unit in range(n)
    ]
    of = tuple(tuple(units[sum(rows[:c]) : sum(rows[: c + 1])]) for c in range(len(rows)))
    return HeadDistances(
        matrices=tuple(np.array(m, dtype=np.float64) for m in matrices),
        units=of,
        metric=metric,
        provenance={},
    )


def on_a_line(*places):
    points = np.array(places, dtype=np.float64)
    return np.abs(points[:, None] - points)


def table(*rows):
    return HeadScores(tuple(np.array(row, dtype=np.float64) for row in rows), "table")


def dropped(groups):
    return sorted(str(head) for head in copies_of(groups))


def sets(groups):
    """Write groups as the indices of their units' first heads."""
    return [[str(unit[0]) for unit in g.members] for g in groups]


# --- the law: exactly the number asked ---------------------------------------------------------


def random_cell(rng, n, kind):
    if kind == "ties":  # few different distances, as of short prompts
        upper = np.triu(rng.integers(1, 4, size=(n, n)), 1).astype(float)
        return upper + upper.T
    rows = rng.normal(size=(n, 3))
    if kind == "duplicated":  # dead or copied heads have equal maps
        rows = rows[rng.integers(0, max(2, n // 3), size=n)]
    return np.linalg.norm(rows[:, None] - rows, axis=2)


def random_case(seed):
    """Make distances per block and over all, with importance, of one random model."""
    rng = np.random.default_rng(seed)
    kind = ("ties", "duplicated", "gaussian")[seed % 3]
    counts = rng.integers(4, 9, size=rng.integers(1, 4)).tolist()
    size = 1 + seed % 2
    metric = ("euclidean", "cosine")[seed // 2 % 2]
    per_block = distances(*(random_cell(rng, n, kind) for n in counts), size=size, metric=metric)
    whole = random_cell(rng, sum(counts), kind)
    overall = distances(whole, blocks=counts, size=size, metric=metric)
    importance = table(*(rng.integers(0, 5, size=n * size) for n in counts))
    return per_block, overall, importance, sum(counts), size


@pytest.mark.slow
@pytest.mark.parametrize("grouping", sorted(GROUPINGS))
def test_exactly_the_number_asked_is_dropped_over_200_random_matrices(grouping):
    for seed in range(200):
        per_block, overall, importance, n_units, size = random_case(seed)
        used = overall if grouping == "global" else per_block
        for percent in (10, 25, 50, 75):
            n_drop = n_units * percent // 100 * size
            groups = group(used, grouping, n_drop, importance=importance, seed=seed)
            assert len(copies_of(groups)) == n_drop, (seed, percent)
            members = [unit for g in groups for unit in g.members]
            assert sorted(members) == sorted(unit for cell in used.units for unit in cell)
            staying = {g.representative for g in groups}
            assert all(staying & set(cell) for cell in used.units)


def test_the_same_with_fcluster_would_drop_too_many():
    too_many = 0
    for seed in range(200):
        per_block, _, _, _, _ = random_case(seed)
        for matrix in per_block.matrices:
            asked = len(matrix) - len(matrix) // 4
            tree = linkage(matrix, per_block.metric)
            too_many += len(set(hierarchy.fcluster(tree, asked, "maxclust"))) < asked
    assert too_many > 20


def test_dropping_nothing_leaves_every_unit_alone():
    for grouping in GROUPINGS:
        groups = group(distances(on_a_line(0, 1, 3)), grouping, 0, importance=table([1, 2, 3]))
        assert groups == tuple(Group((Head(0, i),)) for i in range(3))


@pytest.mark.parametrize("grouping", sorted(GROUPINGS))
def test_the_most_that_can_be_had_leaves_one_unit_in_each_cell(grouping):
    cells = [on_a_line(0, 1, 3, 4), on_a_line(0, 7)]
    found = distances(*cells) if grouping != "global" else distances(on_a_line(*range(6)))
    most = 5 if grouping == "global" else 4
    importance = table([1] * 6, [1] * 2)
    assert len(dropped(group(found, grouping, most, importance=importance))) == most
    wanted = rf"^{most + 1} heads cannot be removed: .* ask for 0 to {most}$"
    with pytest.raises(BudgetError, match=wanted):
        group(found, grouping, most + 1, importance=importance)
    with pytest.raises(BudgetError, match="-1 heads cannot be removed"):
        group(found, grouping, -1, importance=importance)


# --- what each grouping takes ------------------------------------------------------------------

# block 0 has two close pairs (1 and 2 apart), block 1 none closer than 10
NEAR, FAR = on_a_line(0, 1, 100, 102), on_a_line(0, 10, 100, 120)


def test_balanced_takes_as_many_in_every_block():
    assert sets(group(distances(NEAR, FAR), "balanced", 2)) == [
        ["0.0", "0.1"],
        ["0.2"],
        ["0.3"],
        ["1.0", "1.1"],
        ["1.2"],
        ["1.3"],
    ]


def test_balanced_takes_the_odd_ones_where_the_next_merge_is_cheapest():
    # with three each to lose: first 1 and 10, then 2 and 20, then far apart
    assert dropped(group(distances(NEAR, FAR), "balanced", 1)) == ["0.1"]
    assert dropped(group(distances(FAR, NEAR), "balanced", 1)) == ["1.1"]
    assert dropped(group(distances(NEAR, FAR), "balanced", 3)) == ["0.1", "0.3", "1.1"]
    assert dropped(group(distances(FAR, NEAR), "balanced", 3)) == ["0.1", "1.1", "1.3"]
    assert dropped(group(distances(NEAR, NEAR), "balanced", 1)) == ["0.1"]


def test_balanced_looks_at_the_next_merge_not_the_first():
    # the first merges are 1 and 10, the second 100 and 20
    found = distances(on_a_line(0, 1, 100, 200), FAR)
    assert dropped(group(found, "balanced", 3)) == ["0.1", "1.1", "1.3"]


def test_balanced_passes_on_what_a_small_block_cannot_lose():
    found = distances(on_a_line(0, 1), on_a_line(0, 1, 3, 100, 105))
    assert dropped(group(found, "balanced", 4)) == ["0.1", "1.0", "1.2", "1.4"]


def test_nearest_pairs_takes_where_pairs_are_closest():
    found = distances(NEAR, FAR)
    assert dropped(group(found, "nearest_pairs", 1)) == ["0.1"]
    assert dropped(group(found, "nearest_pairs", 2)) == ["0.1", "0.3"]
    assert dropped(group(found, "nearest_pairs", 3)) == ["0.1", "0.3", "1.1"]


def test_nearest_pairs_takes_one_of_a_pair_once():
    # in block 0 the pairs are 3 and 3 apart, then 6; in block 1 5. The second pair (1, 2) of block
    # 0 has lost its first member already, so 5 comes before 6; counting both members, as
    # published, block 0 would have lost two to its first pair
    found = distances(on_a_line(0, 3, 6), on_a_line(0, 5))
    assert dropped(group(found, "nearest_pairs", 2)) == ["0.1", "1.1"]
    assert dropped(group(found, "nearest_pairs", 3)) == ["0.0", "0.2", "1.1"]  # 0.1 is the medoid


def test_nearest_pairs_ties_go_to_the_lower_block():
    assert dropped(group(distances(NEAR, NEAR), "nearest_pairs", 1)) == ["0.1"]


def test_importance_budget_takes_where_the_least_important_units_are():
    # of the three lowest scores two are in block 1: the budget is theirs, the choice Ward's
    importance = table([9, 8, 7, 1], [2, 3, 9, 9])
    assert dropped(group(distances(NEAR, FAR), SCORES, 3, importance=importance)) == [
        "0.1",
        "1.1",
        "1.3",
    ]


def test_importance_budget_leaves_a_block_one_unit_and_takes_the_surplus_elsewhere():
    # all of block 0 is least important; its fourth goes to the next lowest, in block 1
    importance = table([1, 1, 1, 1], [5, 6, 7, 8], [4, 9])
    found = distances(NEAR, FAR, on_a_line(0, 1))
    groups = group(found, SCORES, 4, importance=importance)
    assert sets(groups)[0] == ["0.0", "0.1", "0.2", "0.3"]
    assert [g.representative[0].block for g in groups] == [0, 1, 1, 1, 1, 2]
    assert len(dropped(group(found, SCORES, 5, importance=importance))) == 5


def test_importance_of_key_value_units_is_the_mean_of_their_heads():
    found = distances(on_a_line(0, 1), on_a_line(0, 1), size=2)
    # by means unit 1 of block 1 is lowest (2.5), though 0.0 is the lowest head; minus infinity is
    # a score, too
    assert dropped(group(found, SCORES, 2, importance=table([0, 9, 9, 9], [8, 8, 2, 3]))) == [
        "1.2",
        "1.3",
    ]
    low = table([1, 1, 1, 1], [8, -np.inf, 2, 3])
    assert dropped(group(found, SCORES, 2, importance=low)) == ["1.2", "1.3"]


def test_importance_ties_go_to_the_lower_block():
    found = distances(NEAR, NEAR)
    assert dropped(group(found, SCORES, 1, importance=table([1] * 4, [1] * 4))) == ["0.1"]


def test_global_groups_span_blocks():
    found = distances(on_a_line(0, 100, 1, 200), blocks=[2, 2])
    groups = group(found, "global", 1)
    assert sets(groups) == [["0.0", "1.0"], ["0.1"], ["1.1"]]
    assert copies_of(groups) == {Head(1, 0): Head(0, 0)}


def test_a_model_of_one_block_is_global_and_per_block():
    found = distances(NEAR)
    assert group(found, "global", 2) == group(found, "balanced", 2)


def test_random_has_the_budgets_of_balanced_and_ignores_distances():
    found = distances(NEAR, FAR)
    for seed in range(10):
        groups = group(found, "random", 2, seed=seed)
        assert [h[0] for h in dropped(groups)] == ["0", "1"]
    assert sets(group(found, "random", 2, seed=3)) == sets(
        group(distances(FAR, NEAR), "random", 2, seed=3)
    )
    odd = {tuple(h[0] for h in dropped(group(found, "random", 3, seed=s))) for s in range(20)}
    assert odd == {("0", "0", "1"), ("0", "1", "1")}


def test_random_runs_on_distances_over_all_blocks():
    found = distances(on_a_line(*range(8)), blocks=[4, 4])
    groups = [group(found, "random", 4, seed=s) for s in range(5)]
    assert any(len({u[0].block for u in g.members}) == 2 for draw in groups for g in draw)


# --- seeds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grouping", "representative"),
    [("random", "medoid"), ("random", "random"), ("balanced", "random")],
)
def test_seeds_repeat_and_differ_whatever_the_global_generator_does(grouping, representative):
    found = distances(on_a_line(*range(8)), on_a_line(*range(8)))

    def draw(seed):
        np.random.seed(0)  # as another library would
        return group(found, grouping, 10, seed=seed, representative=representative)

    assert len({draw(seed) for seed in range(20)}) > 15
    assert draw(7) == draw(7)
    draw(1)
    after = np.random.random()
    np.random.seed(0)
    assert np.random.random() == after


def test_without_draws_the_seed_changes_nothing():
    found = distances(NEAR, FAR)
    assert group(found, "balanced", 3, seed=1) == group(found, "balanced", 3, seed=2)


def test_representatives_do_not_change_the_groups():
    found = distances(on_a_line(*range(8)), on_a_line(*range(8)))
    for grouping in ("balanced", "random"):
        medoids = group(found, grouping, 10, seed=4)
        drawn = group(found, grouping, 10, seed=4, representative="random")
        assert sets(medoids) == sets(drawn)
        assert medoids != drawn


# --- what groups are ---------------------------------------------------------------------------


def test_copies_of_key_value_units_go_head_by_head():
    groups = group(distances(on_a_line(0, 1, 5), size=2), "balanced", 2)
    assert groups == (
        Group((Head(0, 0), Head(0, 1)), ((Head(0, 2), Head(0, 3)),)),
        Group((Head(0, 4), Head(0, 5))),
    )
    assert copies_of(groups) == {Head(0, 2): Head(0, 0), Head(0, 3): Head(0, 1)}
    assert labels_of(groups) == {Head(0, i): i // 4 for i in range(6)}


def test_members_are_in_order_whoever_represents():
    one, two, three = (Head(0, 1),), (Head(0, 2),), (Head(1, 0),)
    assert Group(two, (three, one)).members == (one, two, three)


def test_ward_on_raw_reaches_the_tree():
    # points on a circle: squared chords add up to other merges than the cosines themselves
    found = 0
    for seed in range(40):
        rows = np.random.default_rng(seed).normal(size=(8, 3))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        cell = np.round(1 - rows @ rows.T, 12)
        of = distances(np.maximum((cell + cell.T) / 2, 0), metric="cosine")
        found += group(of, "balanced", 5) != group(of, "balanced", 5, ward_on="raw")
    assert found


def test_a_block_that_has_lost_all_its_heads_is_left_out():
    found = distances(np.zeros((0, 0)), NEAR)
    assert dropped(group(found, "balanced", 2)) == ["1.1", "1.3"]


# --- what is refused ---------------------------------------------------------------------------


def test_half_a_key_value_unit_is_refused_with_the_nearest_amounts():
    found = distances(on_a_line(*range(6)), size=4)
    with pytest.raises(BudgetError, match=r"units of 4 heads are removed whole; ask for 4 or 8$"):
        group(found, "balanced", 7)


def test_global_needs_distances_over_all_blocks():
    with pytest.raises(DataError, match="within each of 2 blocks; compute them with"):
        group(distances(NEAR, FAR), "global", 2)


@pytest.mark.parametrize("grouping", ["balanced", "nearest_pairs", SCORES])
def test_distances_over_all_blocks_are_no_good_inside_blocks(grouping):
    found = distances(on_a_line(*range(4)), blocks=[2, 2])
    with pytest.raises(DataError, match=f"'{grouping}' works inside blocks, .* scope='per_block'"):
        group(found, grouping, 1, importance=table([1, 2], [3, 4]))


def test_importance_budget_needs_a_finite_table_of_this_model():
    found = distances(NEAR)
    with pytest.raises(DataError, match="needs scores of all heads; give importance="):
        group(found, SCORES, 1)
    with pytest.raises(ScoreError, match=r"^the importance of 0\.2 is nan; give a score for every"):
        group(found, SCORES, 1, importance=table([1, 2, np.nan, 4]))
    with pytest.raises(HeadError, match=r"no importance of head 0\.2: .* blocks of \[2\] heads"):
        group(found, SCORES, 1, importance=table([1, 2]))
    whole = distances(on_a_line(0, 1), size=2)
    with pytest.raises(ScoreError, match=r"^the importance of 0\.0\+0\.1 is nan"):
        group(whole, SCORES, 2, importance=table([np.inf, -np.inf, 1, 1]))


def test_a_head_that_is_gone_needs_no_importance():
    found = HeadDistances(
        matrices=(on_a_line(0, 1),),
        units=(((Head(0, 0),), (Head(0, 2),)),),
        metric="euclidean",
        provenance={},
    )
    assert dropped(group(found, SCORES, 1, importance=table([1, np.nan, 2]))) == ["0.2"]


def test_units_of_different_sizes_are_refused():
    found = HeadDistances(
        matrices=(on_a_line(0, 1),),
        units=(((Head(0, 0),), (Head(0, 1), Head(0, 2))),),
        metric="euclidean",
        provenance={},
    )
    with pytest.raises(DataError, match=r"units of \[1, 2\] heads; all units have to be of one"):
        group(found, "balanced", 1)


def test_unknown_names_are_refused():
    found = distances(NEAR)
    with pytest.raises(UnknownNameError, match="grouping 'balance' is not known; did you mean 'ba"):
        group(found, "balance", 1)
    with pytest.raises(UnknownNameError, match="representative 'mediod' is not known; did you me"):
        group(found, "balanced", 1, representative="mediod")
    with pytest.raises(UnknownNameError, match="ward_on 'rw' is not known; did you mean 'raw'"):
        group(found, "random", 1, ward_on="rw")
