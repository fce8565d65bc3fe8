"""prune and choose, on a model that is small enough to follow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deadhead import Head, HeadMask, HeadModel, HeadScores, Recipe, TaskSet, prune
from deadhead.errors import BudgetError, HeadError, ScoreError
from deadhead.pruning.prune import choose
from deadhead.pruning.trajectory import Progress
from deadhead.similarity import Clustering
from deadhead.surgery import remove_
from deadhead.types import PruningPlan
from models import batch, make


@dataclasses.dataclass
class CountingTask:
    """Judges a model by the share of heads that still do something."""

    metric = "share"
    greater_is_better = True

    def batches(self):
        return [batch()]

    def evaluate(self, model):
        seen = []
        view = HeadModel(model)
        with view.hook_heads(lambda n, z: seen.append(z.abs().sum((0, 1, 3)))):
            model(**{k: v for k, v in batch().items() if k != "labels"})
        alive = sum(int((z > 0).sum()) for z in seen)
        return type("Evaluation", (), {"value": alive / view.mask.n_heads})


TASKS = TaskSet(CountingTask(), CountingTask(), CountingTask())


def test_the_metric_is_that_of_the_masked_model():
    run = prune(make("bert"), TASKS, criterion="magnitude", strategy="one_shot", heads=1.0)
    sparsity, metric = run.trajectory.curve()
    np.testing.assert_allclose(metric, 1 - sparsity)
    assert len(run.trajectory) == 18


@pytest.mark.parametrize("strategy", ("greedy", "one_shot"))
@pytest.mark.parametrize(("cut", "per_step"), [(3, 5), (8, 5), (5, 5), (17, 4), (1, 18)])
def test_a_step_ends_on_what_is_cut(strategy, cut, per_step):
    options = {"criterion": "magnitude", "strategy": strategy, "heads": 1.0, "evaluate_every": 9}
    run = prune(make("bert"), TASKS, cut=cut, per_step=per_step, **options)
    assert len(run.plan.mask.dropped) == cut
    at_cut = next(s for s in run.trajectory if s.mask == run.plan.mask)
    assert not np.isnan(at_cut.metric)
    assert len(run.trajectory.steps[-1].mask.dropped) == 18


CLUSTERS = {"strategy": "clusters", "heads": 9}
BLIND = Clustering(grouping="random", representative="random")


def test_clusters_are_scored_for_a_budget_only(monkeypatch, tmp_path):
    np.save(tmp_path / "table.npy", np.arange(18.0).reshape(3, 6))
    table = Clustering(grouping="importance_budget", importance=str(tmp_path / "table.npy"))
    work, seen = [], []
    progress = Progress(on_work=work.append, on_scores=seen.append)
    for how in (Clustering(), BLIND, table):
        run = prune(make("opt"), TASKS, clustering=how, progress=progress, **CLUSTERS)
        assert run.scores is None
        assert len(run.plan.copies) == 9
    assert seen == []
    assert work == ["evaluate"] * 6
    budget = Clustering(grouping="importance_budget")
    run = prune(make("opt"), TASKS, clustering=budget, progress=progress, **CLUSTERS)
    assert [run.scores] == seen
    assert work.count("score") == 1


class Unread(CountingTask):
    def batches(self):
        raise AssertionError("the calibration data was looked at")


def test_random_groups_are_pruned_without_calibration_data():
    tasks = TaskSet(Unread(), None, CountingTask())
    run = prune(make("opt"), tasks, clustering=BLIND, **CLUSTERS)
    assert len(run.plan.copies) == 9
    with pytest.raises(AssertionError, match="was looked at"):
        prune(make("opt"), tasks, **CLUSTERS)


def test_prompts_spare_clusters_the_calibration_data():
    tasks = TaskSet(Unread(), None, CountingTask())
    run = prune(make("opt"), tasks, prompts=[batch()], **CLUSTERS)
    assert run.plan == prune(make("opt"), TASKS, **CLUSTERS).plan


def test_key_value_heads_that_cannot_be_grouped_are_refused_before_the_model_is_judged():
    model = make("llama")
    remove_(model, PruningPlan(HeadModel(model).mask.drop(Head(0, 0)), gqa="ungroup"))
    progress = Progress(on_work=lambda what: pytest.fail(what))
    how = Clustering(unit="kv")
    with pytest.raises(HeadError, match="unit 'kv' needs key/value heads with as many"):
        prune(model, TASKS, clustering=how, progress=progress, strategy="clusters", heads=4)


def test_cutting_more_than_the_curve_covers_is_refused():
    with pytest.raises(BudgetError, match="cut=9 is more than the heads=4"):
        prune(make("bert"), TASKS, criterion="magnitude", heads=4, cut=9)


def test_heads_that_cannot_be_ranked_are_not_dropped_silently():
    model = make("bert")
    values = [np.arange(6.0), np.full(6, np.nan), np.arange(6.0)]
    scores = HeadScores(tuple(values), "file")
    recipe = Recipe(criterion="magnitude", strategy="one_shot", heads=15)
    with pytest.raises(ScoreError, match="only 12 of 15 heads can be removed"):
        choose(model, None, recipe, scores=scores)
    fewer = dataclasses.replace(recipe, heads=12)
    assert choose(model, None, fewer, scores=scores).mask.kept[1] == (True,) * 6


def test_scores_of_another_model_are_refused():
    scores = HeadScores((np.zeros(6),), "file")
    recipe = Recipe(criterion="magnitude", strategy="one_shot", heads=1)
    with pytest.raises(HeadError, match="score this model"):
        choose(make("bert"), None, recipe, scores=scores)


def test_choosing_is_pruning_without_judging():
    model = make("bert")
    recipe = Recipe(criterion="taylor", heads=7)
    run = prune(model, TASKS, recipe)
    assert choose(model, [batch()], recipe).mask == run.plan.mask
    assert run.plan.mask <= HeadMask.full([6, 6, 6])
