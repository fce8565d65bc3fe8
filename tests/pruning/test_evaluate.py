"""`evaluate` judges a model as it is, or as a plan would leave it."""

from dataclasses import replace

import numpy as np
import pytest

import deadhead
from deadhead.bundled import sentiment
from deadhead.errors import ArgumentError, DataError, HeadError
from deadhead.types import HeadMask, PruningPlan

HEADS = ["0.1", (1, 2)]


@pytest.fixture(scope="module")
def loaded():
    return deadhead.load_model("bundled:encoder")


@pytest.fixture(scope="module")
def tasks(loaded):
    given = {"config": loaded.model.config, "test_size": 16, "calibration_size": 16}
    return deadhead.open_task("bundled:sentiment", loaded.tokenizer, **given)


def test_a_task_judges_the_model_as_the_task_itself_does(loaded, tasks):
    expected = tasks.test.evaluate(loaded.model)
    for data in (tasks, tasks.test):
        found = deadhead.evaluate(loaded.model, data)
        assert (found.metric, found.value) == ("accuracy", expected.value)
        assert len(repr(found).splitlines()) <= 6


def test_a_plan_a_mask_and_a_list_of_heads_are_judged_alike(loaded, tasks):
    mask = deadhead.HeadModel(loaded.model).mask.drop(*HEADS)
    with deadhead.masked(loaded.model, mask):
        expected = tasks.test.evaluate(loaded.model).per_example
    before = deadhead.HeadModel(loaded.model).mask
    for plan in (HEADS, mask, PruningPlan(mask)):
        found = deadhead.evaluate(loaded.model, tasks.test, plan)
        np.testing.assert_array_equal(found.per_example, expected)
    assert deadhead.HeadModel(loaded.model).mask == before, "the model stays as it is"


def test_rows_are_divided_and_their_last_part_judges(loaded):
    rows = sentiment("test", 40)
    found = deadhead.evaluate(loaded.model, rows, tokenizer=loaded.tokenizer, test_size=4)
    assert len(found.per_example) == 4


def test_the_repair_of_a_plan_is_fitted_on_the_calibration_part(loaded, tasks):
    plan = deadhead.choose(loaded.model, tasks, heads=0.75, criterion="taylor", loss="kl")
    plan = replace(plan, repair="least_squares")
    cut = deadhead.load_model("bundled:encoder").model
    expected = tasks.test.evaluate(deadhead.repair_(cut, tasks.calibration, plan))
    found = deadhead.evaluate(loaded.model, tasks, plan)
    np.testing.assert_array_equal(found.per_example, expected.per_example)
    with pytest.raises(DataError, match="would be fitted on the data that judge; give data to"):
        deadhead.evaluate(loaded.model, tasks.test, plan)


def test_text_without_labels_tells_the_divergence_of_a_plan(loaded):
    texts = [row["sentence"] for row in sentiment("train", 20)]
    given = {"tokenizer": loaded.tokenizer}
    assert deadhead.evaluate(loaded.model, texts, HEADS, **given).metric == "divergence"
    assert deadhead.evaluate(loaded.model, texts, [], **given).value == pytest.approx(0, abs=1e-6)
    with pytest.raises(DataError, match=r"nothing in the data says what is right.* give labels"):
        deadhead.evaluate(loaded.model, texts, **given)


def test_what_is_no_plan_for_this_model_is_refused(loaded, tasks):
    with pytest.raises(HeadError):
        deadhead.evaluate(loaded.model, tasks, HeadMask.full([2, 2]))
    with pytest.raises(ArgumentError, match="seed cannot be 'a'"):
        deadhead.evaluate(loaded.model, tasks, seed="a")
