"""Metrics of the user's own, and the choice among a task's: values, intervals, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deadhead
from deadhead.data.examples import Examples
from deadhead.errors import DataError, DeadheadError, ScoreError, UnknownNameError
from deadhead.tasks import ClassificationTask, Evaluation, PerplexityTask, as_tasks
from deadhead.tasks.metrics import for_trainer, function_in

from .conftest import make_tokenizer, sentences

TEXTS = [(text,) for text in sentences(60)]
LABELS = [i * 7 % 3 for i in range(60)]


@pytest.fixture
def task(bert, bert_tokenizer):
    return ClassificationTask(
        Examples(TEXTS, labels=LABELS), bert_tokenizer, config=bert.config, name="dev.csv"
    )


def compute(given):
    predictions, labels = given  # as the Trainer's can be unpacked
    right = predictions.argmax(1) == labels
    return {"correct": np.float32(right.mean()), "wrong": int((~right).sum()), "note": "a text"}


def test_a_function_of_the_user_gets_what_the_trainer_gives(bert, task):
    own = task.judged_by(compute)
    assert (own.metric, own.greater_is_better, own.chance) == ("correct", True, None)
    found, usual = own.evaluate(bert), task.evaluate(bert)
    assert found.value == pytest.approx(usual.value)
    assert found.metrics == {"correct": found.value, "wrong": 60 - usual.per_example.sum()}
    np.testing.assert_allclose(found.interval(), usual.interval(draws=200), atol=0.03)


def test_metric_and_direction_are_chosen(bert, task):
    own = task.judged_by(compute, "wrong", False)
    assert not own.greater_is_better
    assert own.evaluate(bert).value == 60 - task.evaluate(bert).per_example.sum()
    assert task.metric == "accuracy", "the task itself stays as it was"


def test_another_metric_of_the_task_has_its_own_interval(bert, task):
    usual, f1 = task.evaluate(bert), task.judged_by(metric="macro_f1").evaluate(bert)
    assert f1.metric == "macro_f1"
    assert f1.value == usual.metrics["macro_f1"]
    low, high = f1.interval()
    assert low < f1.value < high
    same = task.judged_by(metric="accuracy").evaluate(bert)
    assert same.interval() == usual.interval()


def test_prune_and_evaluate_take_them(bert, bert_tokenizer):
    rows = [{"text": t, "label": n} for (t,), n in zip(TEXTS, LABELS, strict=True)]
    given = {"tokenizer": bert_tokenizer, "compute_metrics": compute, "metric": "wrong"}
    result = deadhead.prune(bert, rows, heads=1, greater_is_better=False, **given)
    assert result.trajectory.metric == "wrong"
    assert not result.trajectory.greater_is_better
    assert result.trajectory.dense == deadhead.evaluate(bert, rows, **given).value
    named = deadhead.evaluate(bert, rows, tokenizer=bert_tokenizer, metric="mcc")
    assert named.value == named.metrics["mcc"]


def fails(given):
    raise KeyError("eval\nloss")


WRONG = [
    (fails, DataError, r"fails on predictions of shape \[60, 3\] and label_ids of shape \[60\]"),
    (lambda given: 0.5, DataError, "returns a float; return a dictionary"),
    (lambda given: {}, DataError, "returns no number, but nothing"),
    (lambda given: {"a": "b", "c": True}, DataError, "returns no number, but 'a': 'b', 'c': True"),
    (lambda given: {"a": np.zeros(3)}, DataError, "returns no number"),
    (lambda given: {"a": math.nan}, ScoreError, "gives NaN as 'a'; return a number"),
]


@pytest.mark.parametrize(("own", "error", "message"), WRONG)
def test_what_returns_no_number_is_refused(bert, task, own, error, message):
    with pytest.raises(error, match=message) as caught:
        task.judged_by(own).evaluate(bert)
    assert "\n" not in str(caught.value)


def test_a_metric_that_is_not_there_is_refused(bert, task):
    with pytest.raises(UnknownNameError, match="'correkt' is not known; did you mean 'correct'"):
        task.judged_by(compute, "correkt")
    with pytest.raises(UnknownNameError, match="'macro_f' is not known; did you mean 'macro_f1'"):
        task.judged_by(metric="macro_f").evaluate(bert)


def test_a_function_that_forgets_its_metric_is_refused(bert, task):
    own = task.judged_by(lambda p: {"perfect": 1.0} if (p[0].argmax(1) == p[1]).all() else {"b": 0})
    with pytest.raises(UnknownNameError, match=r"'perfect' is not known.* known: b"):
        own.evaluate(bert)


def test_what_has_no_predictions_takes_no_function(opt):
    task = PerplexityTask(Examples(TEXTS), make_tokenizer(), config=opt.config)
    with pytest.raises(DataError, match="'perplexity' has no predictions and labels for compute_"):
        task.judged_by(compute)
    by_loss = task.judged_by(metric="loss")
    assert not by_loss.greater_is_better
    found = by_loss.evaluate(opt)
    assert math.exp(found.value) == pytest.approx(found.metrics["perplexity"])
    low, high = found.interval()
    assert low < found.value < high


def test_data_that_judge_nothing_take_no_metric(bert, bert_tokenizer):
    for data in (sentences(10, longest=9), [bert_tokenizer(["a"] * 5, return_tensors="pt")]):
        with pytest.raises(DataError, match="nothing can be judged"):
            as_tasks(data, bert, bert_tokenizer, metric="accuracy")


def test_examples_of_several_lengths_are_padded_as_by_the_trainer():
    values = [np.ones((2, 3)), np.zeros((4, 3))]
    found = for_trainer(values)
    assert found.shape == (2, 4, 3)
    assert found[0, 2:].tolist() == [[-100] * 3] * 2


SOURCES = {
    "good.py:compute": None,
    "good.py:komputes": "'komputes' is not known; did you mean 'compute'",
    "good.py": "names no function; write FILE.py:FUNCTION",
    "good.txt:compute": "names no function",
    "none.py:compute": "there is no file .*none.py",
    "bad.py:compute": r"bad.py' fails when it is loaded \(division by zero\)",
    "syntax.py:compute": "syntax.py' fails when it is loaded",
}


@pytest.mark.parametrize("name", SOURCES)
def test_functions_of_files(tmp_path, name):
    (tmp_path / "good.py").write_text("def compute(given):\n    return {'a': 1}\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    (tmp_path / "syntax.py").write_text("def compute(:\n")
    message = SOURCES[name]
    if message is None:
        assert function_in(f"{tmp_path}/{name}")(None) == {"a": 1}
        return
    with pytest.raises(DeadheadError, match=message) as caught:
        function_in(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


def test_an_interval_leaves_out_draws_that_define_no_value():
    values = np.arange(10.0)

    def statistic(rows):
        if 9 in rows:
            raise DataError("not these")
        return values[rows].mean() if 0 in rows else math.nan

    found = Evaluation("m", 4.5, {"m": 4.5}, values, statistic=statistic)
    low, high = found.interval(draws=400)
    assert 1 < low < 4 < high < 7
    never = Evaluation("m", 4.5, {"m": 4.5}, values, statistic=lambda rows: math.nan)
    assert np.isnan(never.interval()).all()


def test_an_interval_of_a_statistic_is_that_of_the_mean():
    values = np.random.default_rng(0).random(50)
    mean = Evaluation("m", values.mean(), {}, values)
    same = Evaluation("m", values.mean(), {}, values, statistic=lambda rows: values[rows].mean())
    np.testing.assert_allclose(same.interval(draws=1000), mean.interval(), atol=0.01)
    ratio = Evaluation("m", 0.0, {}, values, weights=(values > 0.9).astype(float))
    assert np.isfinite(ratio.interval()).all()
