"""Masks, scores and plans are values with laws."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deadhead import Head, HeadMask, HeadScores, PruningPlan
from deadhead.errors import BudgetError, DeadheadError, HeadError, ScoreError
from deadhead.options.values import count_heads

MASK = HeadMask.full([3, 2, 4])


def test_heads_print_and_read_as_block_and_index():
    assert str(Head(3, 7)) == "3.7"
    assert Head.parse("3.7") == Head(3, 7)


@pytest.mark.parametrize("given", (Head(3, 7), (3, 7), [3, 7], "3.7", (np.int64(3), 7)))
def test_a_head_may_be_given_as_a_pair_or_as_text(given):
    mask = HeadMask.full([1, 1, 1, 8])
    assert Head.parse(given) == Head(3, 7)
    assert mask.drop(given).dropped == (Head(3, 7),)
    assert mask.keeps(given)
    assert HeadScores(tuple(np.arange(n) for n in mask.counts), "x")[given] == 7


NO_HEADS = ("3", "3.", ".7", "a.b", "-1.2", "1.2.3", "", "1." + "1" * 5000, "\u0663.1")
NO_HEADS += (3.7, None, (1,), (1, 2, 3), (1.0, 2), (True, 1), ["1", "2"], {3: 7})


@pytest.mark.parametrize("text", NO_HEADS)
def test_what_is_not_a_head_is_refused(text):
    with pytest.raises(HeadError, match=r"is not a head; write block\.index"):
        Head.parse(text)


def test_dropping_returns_a_smaller_mask_and_leaves_the_first():
    smaller = MASK.drop(Head(0, 1), Head(2, 3))
    assert MASK.n_kept == 9
    assert smaller.n_kept == 7
    assert smaller.dropped == (Head(0, 1), Head(2, 3))
    assert smaller.kept_in(0) == (0, 2)
    assert smaller <= MASK
    assert not smaller >= MASK
    assert smaller.drop(Head(0, 1)) == smaller


def test_sparsity_is_the_fraction_dropped():
    assert MASK.sparsity == 0
    assert MASK.drop(*MASK.heads).sparsity == 1
    assert HeadMask.full([]).sparsity == 0


def test_masks_are_equal_by_content_and_hashable():
    assert len({MASK, HeadMask.full([3, 2, 4]), MASK.drop(Head(1, 1))}) == 2


@pytest.mark.parametrize("head", (Head(3, 0), Head(1, 2), Head(-1, 0), Head(0, -1)))
def test_a_head_that_is_not_there_is_refused(head):
    with pytest.raises(HeadError, match="there is no head"):
        MASK.drop(head)


def test_masks_of_different_models_do_not_mix():
    with pytest.raises(HeadError, match="use the plan of this model"):
        _ = MASK & HeadMask.full([3, 2])


@pytest.mark.parametrize(
    ("amount", "heads"),
    [
        *((0, 0), (5, 5), (10, 10), (0.5, 5), (1.0, 10), (0.25, 2), (0.01, 0)),
        *(("50%", 5), ("7", 7), ("0.25", 2), (np.int64(3), 3), (np.float32(0.5), 5)),
    ],
)
def test_int_counts_and_float_is_a_fraction(amount, heads):
    assert count_heads(amount, 10) == heads


@pytest.mark.parametrize(
    "amount", (-1, 11, 0.0, 1.5, -0.1, True, "11", "0%", "x", "9" * 5000, None, [], float("nan"))
)
def test_an_amount_out_of_range_is_refused(amount):
    with pytest.raises(BudgetError):
        count_heads(amount, 10)


def test_ties_go_to_the_lower_block_then_the_lower_index_in_both_directions():
    scores = HeadScores((np.array([2.0, 1, 1]), np.array([1.0, 2])), "tie")
    low = [Head(0, 1), Head(0, 2), Head(1, 0), Head(0, 0), Head(1, 1)]
    high = [Head(0, 0), Head(1, 1), Head(0, 1), Head(0, 2), Head(1, 0)]
    assert scores.ranking() == low
    assert scores.ranking(inverse=True) == high


def test_heads_that_are_not_scored_or_not_kept_are_not_ranked():
    scores = HeadScores((np.array([np.nan, 1, -np.inf]), np.array([0.0, 2])), "c")
    mask = HeadMask.full([3, 2]).drop(Head(1, 0))
    assert scores.ranking(mask) == [Head(0, 2), Head(0, 1), Head(1, 1)]


def test_scores_survive_json_with_nan_and_infinity():
    scores = HeadScores((np.array([np.nan, -np.inf, 0.1]),), "c", {"loss": "task", "samples": 3})
    text = json.dumps(scores.to_json(), allow_nan=False)
    assert HeadScores.from_json(json.loads(text)) == scores


def test_scores_cannot_be_changed():
    scores = HeadScores((np.array([1.0]),), "c")
    with pytest.raises(ValueError, match="read-only"):
        scores.values[0][0] = 2


def test_scores_differ_by_content():
    a = HeadScores((np.array([1.0]),), "c")
    assert a != HeadScores((np.array([2.0]),), "c")
    assert a != HeadScores((np.array([1.0]),), "d")
    assert a != HeadScores((np.array([1.0]), np.array([1.0])), "c")


def test_plans_survive_json_and_say_what_will_be_cut():
    plan = PruningPlan(MASK.drop(Head(1, 0), Head(1, 1)), gqa="ungroup", provenance={"seed": 1})
    again = PruningPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert "remove 2 of 9 heads (22%)" in str(plan)
    assert "block 1: heads 0, 1; 0 of 2 stay" in str(plan)


def test_every_error_is_ours_and_also_a_built_in():
    from deadhead import errors

    for name, cls in vars(errors).items():
        if isinstance(cls, type) and issubclass(cls, DeadheadError) and cls is not DeadheadError:
            builtins = [b for b in cls.__mro__ if b.__module__ == "builtins"]
            assert len(builtins) > 3, f"{name} specialises no built-in"
            assert name in (errors.__doc__ or ""), f"{name} is not in the tree"
            assert str(cls("as it is: 'x'")) == "as it is: 'x'"


NO_MASKS = (None, 3, "11", [1, 0], [[2]], [["x"]], [[None]], [[[1]]], [np.ones((2, 2))])


@pytest.mark.parametrize("kept", NO_MASKS)
def test_what_is_not_a_mask_is_refused(kept):
    for make in (HeadMask, HeadMask.of, PruningPlan):
        with pytest.raises(HeadError, match=r"is not a mask .*; give a row of 0 and 1 per block"):
            make(kept)
    with pytest.raises(HeadError, match="is not a mask"):
        PruningPlan.from_json({"mask": kept})


NO_PLANS = (None, 3, [], {}, {"mask": [[1]], "copies": 3}, {"mask": [[1]], "provenance": 3})


@pytest.mark.parametrize("data", NO_PLANS)
def test_what_is_not_a_plan_is_refused(data):
    with pytest.raises(HeadError, match="is not a pruning plan"):
        PruningPlan.from_json(data)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("copies", {"0.9": "0.0"}, "there is no head 0.9"),
        ("copies", {"0.0": "9.0"}, "there is no head 9.0"),
        ("copies", {"0": "1.0"}, "'0' is not a head"),
        ("action", ["remove"], "is not known"),
        ("action", "cut", "action 'cut' is not known"),
        ("gqa", 3, "gqa policy '3' is not known"),
        ("gqa", "whole_group", "did you mean 'whole_groups'"),
        ("slope", None, "slope 'None' is not known"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(field, value, said):
    with pytest.raises(DeadheadError, match=said):
        PruningPlan.from_json({"mask": [[1, 1, 1], [1, 1]], field: value})


def test_a_provenance_that_json_cannot_hold_is_refused():
    with pytest.raises(DeadheadError, match="JSON cannot hold the provenance of a plan"):
        PruningPlan(MASK, provenance={"model": object()}).to_json()


@pytest.mark.parametrize(
    "data",
    [
        *(None, 3, {}, {"values": 3, "criterion": "x"}, {"values": [["x"]], "criterion": "x"}),
        *({"values": rows, "criterion": "x"} for rows in (3, [["x"]], [[[1]]], [3])),
        {"values": [[1]], "criterion": 3},
        {"values": [[1]], "criterion": "x", "provenance": 3},
    ],
)
def test_what_are_not_scores_is_refused(data):
    with pytest.raises(ScoreError, match=r"these are not scores .*; make them with"):
        HeadScores.from_json(data)


@pytest.mark.parametrize("head", ("0.3", "5.0", (0, -1), (-1, 0)))
def test_a_score_that_is_not_there_is_refused(head):
    with pytest.raises(HeadError, match=r"there is no score of head|is not a head"):
        HeadScores((np.zeros(3), np.zeros(2)), "x")[head]
