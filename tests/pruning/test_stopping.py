"""When a run stops, and which of its steps becomes the plan."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deadhead import HeadModel, prune
from deadhead.errors import BudgetError, UnknownNameError
from deadhead.pruning.loop import PruneLoop
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.trajectory import StopRules
from deadhead.tasks import Evaluation, TaskSet
from models import make


class Planted:
    """A task whose metric after n dropped heads is `curve[n]`."""

    kind, name, size, fingerprint = "planted", "planted", 1, "0"

    def __init__(self, view, curve, *, metric="accuracy", greater_is_better=True):
        self.view, self.curve = view, curve
        self.metric, self.greater_is_better = metric, greater_is_better
        self.seen: list[int] = []

    def batches(self):
        return []

    def evaluate(self, model):
        gone = self.view.dropped
        self.seen.append(gone)
        value = self.curve[gone]
        return Evaluation(self.metric, value, {self.metric: value}, np.array([value]))


class Counting(HeadModel):
    """Knows how many heads the gates switch off."""

    dropped = 0

    def gated(self, gates):
        self.dropped = int(sum((g == 0).sum() for g in gates))
        return super().gated(gates)


def run(curve, *, selection=True, better=True, **recipe):
    view = Counting(make("bert"))
    task = Planted(view, curve, greater_is_better=better)
    tasks = TaskSet(task, task if selection else None, task)
    options = {"criterion": "magnitude", "heads": len(curve) - 1, **recipe}
    return prune(view, tasks, **options), task


BUMPY = [0.90, 0.89, 0.60, 0.90, 0.50, 0.50, 0.88, 0.40, 0.30]


@pytest.mark.parametrize("strategy", ["greedy", "one_shot"])
def test_without_max_drop_it_goes_to_the_limit_and_plans_the_last_step(strategy):
    found, _ = run(BUMPY, strategy=strategy)
    assert [s.metric for s in found.trajectory] == BUMPY
    assert len(found.plan.mask.dropped) == 8
    assert found.evaluated_on == "test"


@pytest.mark.parametrize(
    ("patience", "evaluated", "planned"), [(1, 2, 1), (2, 5, 3), (3, 8, 6), (9, 8, 6)]
)
def test_patience_waits_for_a_curve_that_recovers(patience, evaluated, planned):
    found, _ = run(BUMPY, max_drop=0.03, patience=patience)
    assert len(found.trajectory) == evaluated
    assert len(found.plan.mask.dropped) == planned
    assert found.evaluated_on == "selection"


def test_lower_is_better_for_perplexity():
    found, _ = run([10.0, 10.2, 12.0, 10.1], better=False, max_drop=0.5, patience=2)
    assert len(found.plan.mask.dropped) == 3


def test_if_no_step_is_good_enough_nothing_is_cut():
    found, _ = run([0.9, 0.1, 0.1], max_drop=0.0)
    assert found.plan.mask.dropped == ()
    found, _ = run([0.9, 0.9, 0.1], max_drop=0.0)
    assert len(found.plan.mask.dropped) == 1


def test_a_dense_model_that_cannot_be_judged_is_not_cut():
    found, _ = run([math.nan, 0.5, 0.5], max_drop=0.1)
    assert found.plan.mask.dropped == ()


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_every_so_many_moves_are_evaluated_and_the_last(every):
    found, task = run(BUMPY, evaluate_every=every)
    assert task.seen == sorted({0, *range(every, 8, every), 8})
    assert [not math.isnan(s.metric) for s in found.trajectory] == [
        n in task.seen for n in range(9)
    ]


@pytest.mark.parametrize("strategy", ["greedy", "one_shot"])
@pytest.mark.parametrize(("heads", "per_step"), [(18, 1), (14, 1), (9, 1), (18, 2), (17, 3)])
def test_a_curve_is_judged_at_eight_points_beside_the_dense_model(strategy, heads, per_step):
    curve = [0.9] * (heads + 1)
    found, task = run(curve, strategy=strategy, per_step=per_step)
    every, all_ = run(curve, strategy=strategy, per_step=per_step, every_step=True)
    assert [s.mask for s in found.trajectory] == [s.mask for s in every.trajectory]
    assert found.plan == every.plan
    assert len(all_.seen) == len(every.trajectory) + 1
    assert len(task.seen) == min(9, len(all_.seen))
    assert (task.seen[0], task.seen[-1]) == (0, heads)
    gaps = np.diff(task.seen)
    assert gaps.max() - gaps.min() <= per_step


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"per_step": 5},
        {"every_step": True},
        {"evaluate_every": 4},
        {"cut": 7},
        {"cut": 9},
        {"heads": 18, "cut": 9, "strategy": "greedy"},
        {"max_drop": 1.0},
    ],
)
def test_a_run_says_before_how_often_it_judges(recipe):
    view = Counting(make("bert"))
    task = Planted(view, [0.9] * 19)
    options = {"criterion": "magnitude", "strategy": "one_shot", "heads": 16, **recipe}
    loop = PruneLoop(view, TaskSet(task, task, task), Recipe(**options))
    forecast = loop.forecast()
    assert task.seen == []
    steps = list(loop)
    assert (forecast.judgments, forecast.moves) == (len(task.seen), len(steps) - 1)
    assert f"judge {forecast.judgments} models" in forecast.describe()
    assert "about 90 s" not in forecast.describe(0.1)


def test_a_stopping_rule_looks_at_every_step():
    _, task = run([0.9] * 19, max_drop=0.1)
    assert task.seen == list(range(19))


def test_two_ways_to_say_which_steps_are_judged_are_refused():
    with pytest.raises(BudgetError, match="every_step and evaluate_every=3 both say"):
        Recipe(every_step=True, evaluate_every=3)


def test_a_step_that_was_not_evaluated_is_never_the_plan():
    found, _ = run([0.9] * 9, max_drop=0.1, evaluate_every=3, heads=8)
    assert len(found.plan.mask.dropped) == 8
    found, _ = run([0.9] * 7 + [0.1, 0.1], max_drop=0.1, evaluate_every=3, heads=8)
    assert len(found.plan.mask.dropped) == 6


def test_max_drop_needs_a_selection_set():
    with pytest.raises(BudgetError, match="max_drop stops on a selection set, and there is none"):
        run(BUMPY, selection=False, max_drop=0.1)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"max_drop": -0.1}, BudgetError, "max_drop is -0.1; give 0 or more"),
        ({"max_drop": math.nan}, BudgetError, "max_drop is nan; give 0 or more"),
        ({"patience": 0}, BudgetError, "patience is 0; give 1 or more"),
        ({"evaluate_every": 0}, BudgetError, "evaluate_every is 0; give 1 or more"),
        ({"strategy": "gredy"}, UnknownNameError, "did you mean 'greedy'"),
        ({"criterion": "tayler"}, UnknownNameError, "did you mean 'taylor'"),
        ({"loss": "tsk"}, UnknownNameError, "did you mean 'task'"),
        ({"scope": "globl"}, UnknownNameError, "did you mean 'global'"),
        ({"gqa": "ungrup"}, UnknownNameError, "did you mean 'ungroup'"),
        ({"keep_at_least": -1}, BudgetError, "keep_at_least is -1"),
    ],
)
def test_wrong_recipes_are_refused_when_they_are_made(wrong, error, message):
    with pytest.raises(error, match=message):
        Recipe(**wrong)


def test_wrong_options_of_a_criterion_are_refused_before_any_work():
    with pytest.raises(UnknownNameError, match="did you mean 'normalized'"):
        run(BUMPY, criterion="attention_entropy:normalizd=true")


def test_stop_rules_count_heads_not_steps():
    rules = StopRules(4)
    found, _ = run(BUMPY, per_step=2, heads=4)
    steps = found.trajectory.steps
    assert [rules.met(steps[:n], 0.9, greater_is_better=True) for n in range(3)] == [
        False,
        False,
        True,
    ]
