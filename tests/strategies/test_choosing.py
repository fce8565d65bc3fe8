"""What the strategies drop, and what they never drop."""

from __future__ import annotations

import numpy as np
import pytest

from deadhead import Head, HeadMask, HeadModel, HeadScores, PruningPlan, remove_
from deadhead.errors import BudgetError, UnknownNameError
from deadhead.options.values import count_heads
from deadhead.strategies import STRATEGIES, Rules, StrategyContext, droppable, reachable, units
from masks import random_mask
from models import make
from planted import PlantedScorer

RANKING = ("greedy", "one_shot")  # strategies that go by scores


@pytest.fixture(scope="module")
def bert():
    """3 blocks of 6 heads."""
    return HeadModel(make("bert"))


@pytest.fixture(scope="module")
def llama():
    """3 blocks of 6 heads, 3 to a key/value head."""
    return HeadModel(make("llama", "causal_lm"))


def scores_of(values) -> HeadScores:
    return HeadScores(tuple(np.array(row, dtype=float) for row in values), "planted")


def drawn(view, seed=0) -> HeadScores:
    rng = np.random.default_rng(seed)
    return scores_of(rng.permutation(100)[: view.mask.n_heads].reshape(-1, 6))


def moves(view, score, *, name="one_shot", start=None, per_step=1, limit=None, rules=None):
    """All moves of a strategy; `score` is a function of the mask, or scores that never change."""
    context = StrategyContext(
        view,
        score if callable(score) else lambda mask: score,
        rules or Rules(),
        origin=view.mask,
        start=start or view.mask,
        per_step=per_step,
        limit=view.mask.n_heads if limit is None else limit,
        scorer=score if isinstance(score, PlantedScorer) else None,
    )
    return list(STRATEGIES[name](context))


def order(found) -> list[Head]:
    return [h for move in found for h in move.dropped]


@pytest.mark.parametrize("name", RANKING)
def test_the_lowest_score_goes_first_and_inverse_turns_it_round(bert, name):
    scores = drawn(bert)
    ranked = sorted(bert.mask.heads, key=lambda h: scores[h])
    assert order(moves(bert, scores, name=name)) == ranked
    inverse = moves(bert, scores, name=name, rules=Rules(inverse=True))
    assert order(inverse) == ranked[::-1]
    assert inverse[0].scores == (scores[ranked[-1]],)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", RANKING)
def test_ties_go_to_the_lower_block_then_the_lower_index(bert, name, inverse):
    ties = scores_of(np.zeros((3, 6)))
    assert order(moves(bert, ties, name=name, rules=Rules(inverse=inverse))) == list(
        bert.mask.heads
    )


def test_minus_infinity_goes_first_and_what_was_not_scored_stays(bert):
    values = np.arange(18.0).reshape(3, 6)
    values[2, 3], values[0, 0] = -np.inf, np.nan
    found = order(moves(bert, scores_of(values)))
    assert found[0] == Head(2, 3)
    assert Head(0, 0) not in found
    assert len(found) == 17


@pytest.mark.parametrize("per_step", [1, 2, 5, 18])
@pytest.mark.parametrize("scope", ["global", "per_block"])
@pytest.mark.parametrize("name", RANKING)
def test_masks_only_shrink_and_never_beyond_the_limit(bert, name, scope, per_step):
    for limit in (0, 1, 7, 18):
        before = bert.mask
        rules = Rules(scope=scope)
        found = moves(bert, drawn(bert), name=name, per_step=per_step, limit=limit, rules=rules)
        for move in found:
            assert 0 < len(move.dropped) <= per_step
            assert move.mask <= before
            assert before.drop(*move.dropped) == move.mask
            before = move.mask
        assert len(before.dropped) == limit


@pytest.mark.parametrize("per_step", [1, 2, 3, 7])
@pytest.mark.parametrize("name", RANKING)
def test_per_block_takes_the_same_number_from_every_block(bert, name, per_step):
    uneven = scores_of([range(6), range(100, 106), range(200, 206)])  # block 0 is the lowest
    for each in (1, 2, 5):
        rules = Rules(scope="per_block")
        found = moves(bert, uneven, name=name, per_step=per_step, limit=3 * each, rules=rules)
        assert [row.count(False) for row in found[-1].mask.kept] == [each] * 3


@pytest.mark.parametrize("gqa", ["whole_groups", "equalize"])
def test_per_block_takes_the_same_number_of_shared_heads_too(llama, gqa):
    rules = Rules(scope="per_block", gqa=gqa)
    limit = reachable(llama, llama.mask, rules, 0.5)
    found = moves(llama, drawn(llama), per_step=1, limit=limit, rules=rules, name="greedy")
    assert len({row.count(False) for row in found[-1].mask.kept}) == 1
    assert len(found[-1].mask.dropped) == limit > 0


@pytest.mark.parametrize("keep", [1, 3, 6])
@pytest.mark.parametrize("scope", ["global", "per_block"])
@pytest.mark.parametrize("name", RANKING)
def test_every_block_keeps_what_it_has_to(bert, name, scope, keep):
    rules = Rules(scope=scope, keep_at_least=keep)
    found = moves(bert, drawn(bert), name=name, rules=rules)
    last = found[-1].mask if found else bert.mask
    assert [sum(row) for row in last.kept] == [keep] * 3


@pytest.mark.parametrize("name", RANKING)
def test_a_count_is_exact_or_refused_with_the_nearest(llama, name):
    scores = drawn(llama)
    for gqa in ("whole_groups", "equalize", "ungroup"):
        rules = Rules(gqa=gqa)
        for asked in range(1, 19):
            try:
                limit = reachable(llama, llama.mask, rules, asked)
            except BudgetError as error:
                text = str(error)
                near = [
                    int(w.rstrip(","))
                    for w in text.split("ask for ")[1].split()
                    if w[0] in "0123456789"
                ]
                assert near
                assert f"{asked} of 18 heads" in text
                assert all(reachable(llama, llama.mask, rules, n) == n for n in near)
                assert not {asked} & set(near)
            else:
                found = moves(llama, scores, name=name, limit=limit, rules=rules)
                assert limit == asked == len(found[-1].mask.dropped)
    with pytest.raises(BudgetError, match=r"gqa='whole_groups'.*ask for 3 or 6"):
        reachable(llama, llama.mask, Rules(), 4)
    with pytest.raises(BudgetError, match="19 heads were asked for, but the model has 18"):
        reachable(llama, llama.mask, Rules(), 19)


def test_a_fraction_is_rounded_down_to_what_the_rules_allow(llama):
    for rules in (Rules(), Rules(scope="per_block"), Rules(keep_at_least=3), Rules(gqa="equalize")):
        reached = [reachable(llama, llama.mask, rules, f) for f in np.linspace(0.01, 1, 50)]
        wanted = [count_heads(f, 18) for f in np.linspace(0.01, 1, 50)]
        assert all(r <= w for r, w in zip(reached, wanted, strict=True))
        assert reached == sorted(reached)
        assert all(reachable(llama, llama.mask, rules, r) == r for r in reached)
    assert reachable(llama, llama.mask, Rules(), 0.3) == 3
    assert reachable(llama, llama.mask, Rules(keep_at_least=3), 1.0) == 9


def test_a_fraction_that_drops_nothing_is_refused(llama):
    with pytest.raises(BudgetError, match=r"1 of 18 heads.*ask for 3, or change the rules"):
        droppable(llama, llama.mask, Rules(), 0.08)
    with pytest.raises(BudgetError, match="no head can be removed"):
        droppable(llama, llama.mask, Rules(keep_at_least=6), 0.5)
    assert droppable(llama, llama.mask, Rules(), 0.5) == 9


@pytest.mark.parametrize("heads", [3, 3 / 18])
def test_an_amount_that_is_gone_already_is_refused(llama, heads):
    gone = llama.mask.drop(*[Head(0, i) for i in range(3)])
    with pytest.raises(
        BudgetError, match=r"3 of 18 .*3 are removed already, and count\); ask for 6"
    ):
        droppable(llama, gone, Rules(), heads)


def test_shared_heads_go_in_the_units_of_their_policy(llama):
    scores = drawn(llama)
    groups = {tuple(Head(b, i) for i in range(s, s + 3)) for b in range(3) for s in (0, 3)}
    found = units(llama, scores, llama.mask, Rules())
    assert set(found) == groups
    means = [np.mean([scores[h] for h in unit]) for unit in found]
    assert means == sorted(means)
    for unit in units(llama, scores, llama.mask, Rules(gqa="equalize")):
        assert sorted(h.index // 3 for h in unit) == [0, 1]
    assert all(len(u) == 1 for u in units(llama, scores, llama.mask, Rules(gqa="ungroup")))


@pytest.mark.parametrize("name", RANKING)
def test_heads_that_go_together_are_ranked_by_what_they_cost_together(llama, name):
    scores = drawn(llama)
    alone = moves(llama, scores, name=name)
    assert alone == moves(llama, PlantedScorer(scores, {}), name=name), "sums rank as means do"
    dear, cheap = alone[0].dropped, alone[-1].dropped
    score = PlantedScorer(scores, {dear: 1e6, cheap: -1.0})
    found = moves(llama, score, name=name)
    assert found[0].dropped == cheap
    assert found[-1].dropped == dear
    assert found[0].scores == tuple(scores[h] for h in cheap), "a move tells each head's own"
    inverse = moves(llama, score, name=name, rules=Rules(inverse=True))
    assert inverse[0].dropped == dear
    masks = {mask for mask, _ in score.asked}
    assert masks == ({llama.mask} if name == "one_shot" else {llama.mask, *masks})
    ungrouped = PlantedScorer(scores, {})
    moves(llama, ungrouped, name=name, rules=Rules(gqa="ungroup"))
    assert ungrouped.asked == [], "single heads have their scores"


@pytest.mark.parametrize("inverse", [False, True])
def test_equalize_takes_the_lowest_of_every_group_together(llama, inverse):
    scores, sign = drawn(llama), -1 if inverse else 1
    for unit in units(llama, scores, llama.mask, Rules(gqa="equalize", inverse=inverse))[:3]:
        block = unit[0].block
        peers = [
            u
            for u in units(llama, scores, llama.mask, Rules(gqa="equalize", inverse=inverse))
            if u[0].block == block
        ]
        for slot, head in enumerate(unit):
            later = [u[slot] for u in peers[peers.index(unit) :]]
            assert sign * scores[head] == min(sign * scores[h] for h in later)


@pytest.mark.parametrize("gqa", ["whole_groups", "equalize", "ungroup"])
@pytest.mark.parametrize("name", RANKING)
def test_every_mask_on_the_way_can_be_removed(llama, name, gqa):
    for move in moves(llama, drawn(llama), name=name, rules=Rules(gqa=gqa)):
        model = make("llama", "causal_lm")
        remove_(model, PruningPlan(move.mask, gqa=gqa))
        assert HeadModel(model).mask == move.mask


def test_greedy_scores_again_and_one_shot_does_not(bert):
    """Two heads do the same work: either may go, but not both."""
    twins = (Head(0, 0), Head(0, 1))

    def score(mask: HeadMask) -> HeadScores:
        values = np.full((3, 6), 5.0) + np.arange(18).reshape(3, 6)
        for twin, other in (twins, twins[::-1]):
            values[twin] = 1.0 if mask.keeps(other) else 100.0
        return scores_of(np.where(mask.kept, values, np.nan))

    assert set(order(moves(bert, score, limit=2))) == set(twins)
    assert order(moves(bert, score, name="greedy", limit=2)) == [twins[0], Head(0, 2)]
    assert order(moves(bert, score, name="greedy"))[-1] == twins[1]


@pytest.mark.parametrize("name", RANKING)
def test_how_often_a_strategy_scores(bert, name):
    calls = []

    def score(mask):
        calls.append(mask)
        return drawn(bert)

    found = moves(bert, score, name=name, per_step=4, limit=12)
    starts = [bert.mask, *(m.mask for m in found[:-1])]
    assert calls == (starts if name == "greedy" else [bert.mask])


@pytest.mark.parametrize("scope", ["global", "per_block"])
@pytest.mark.parametrize("name", RANKING)
def test_going_on_from_a_mask_gives_the_same_order(bert, name, scope):
    rules = Rules(scope=scope)
    whole = moves(bert, drawn(bert), name=name, per_step=2, rules=rules)
    for done in (1, 4, 8):
        start = whole[done - 1].mask
        rest = moves(bert, drawn(bert), name=name, start=start, per_step=2, rules=rules)
        assert rest == whole[done:]


def test_a_cut_model_is_cut_further_from_where_it_is():
    model = make("bert")
    gone = random_mask(HeadModel(model).mask, 0, share=0.3)  # block 0 is empty
    remove_(model, PruningPlan(gone))
    view = HeadModel(model)
    found = moves(view, drawn(view), limit=len(gone.dropped) + 2)
    assert len(found[-1].mask.dropped) == len(gone.dropped) + 2
    assert not set(order(found)) & set(gone.dropped)
    with pytest.raises(BudgetError, match=rf"{len(gone.dropped)} are removed already"):
        reachable(view, view.mask, Rules(), 3)


@pytest.fixture(scope="module")
def mixed():
    """A model that gives up heads by threes in block 0, and by one and by two in the others."""
    model = make("llama", "causal_lm")
    mask = HeadModel(model).mask
    gone = [*(Head(1, i) for i in (1, 2, 4, 5)), Head(2, 0), Head(2, 3)]
    remove_(model, PruningPlan(mask.drop(*gone), gqa="equalize"))
    view = HeadModel(model)
    found = units(view, scores_of(np.zeros((3, 6))), view.mask, Rules())
    assert {(unit[0].block, len(unit)) for unit in found} == {(0, 3), (1, 1), (2, 2)}
    return view


@pytest.mark.parametrize("per_step", [1, 2, 4])
@pytest.mark.parametrize(
    "rules", [Rules(), Rules(inverse=True), Rules(keep_at_least=1), Rules(scope="per_block")]
)
@pytest.mark.parametrize("name", RANKING)
def test_what_is_promised_is_reached_also_where_units_differ(mixed, name, rules, per_step):
    promised = {reachable(mixed, mixed.mask, rules, share) for share in np.linspace(0.01, 1, 60)}
    assert len(promised) > 2
    for limit in promised - {6}:
        for seed in range(6):
            scores = drawn(mixed, seed)
            found = moves(mixed, scores, name=name, limit=limit, rules=rules, per_step=per_step)
            assert len(found[-1].mask.dropped) == limit


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda: Rules(scope="globl"), UnknownNameError, "did you mean 'global'"),
        (lambda: Rules(gqa="whole_group"), UnknownNameError, "did you mean 'whole_groups'"),
        (lambda: Rules(keep_at_least=-1), BudgetError, "keep_at_least is -1; give 0 or more"),
        (lambda: STRATEGIES["gredy"], UnknownNameError, "did you mean 'greedy'"),
    ],
)
def test_wrong_rules_are_refused(make_it, error, message):
    with pytest.raises(error, match=message):
        make_it()
