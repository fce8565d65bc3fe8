import numpy as np
import pytest

from deadhead import HeadModel, evaluate, load_model
from deadhead.bundled import sentiment
from deadhead.strategies import Rules
from deadhead.studies.baseline import RandomBaseline, random_baseline


def test_between_points_each_draw_is_interpolated_and_then_summarized():
    # the draws cross: halfway all of them are .5, which the ends' quantiles do not show
    crossing = RandomBaseline((0.0, 1.0), ((0.0, 1.0), (1.0, 0.0), (0.25, 0.75)))
    assert crossing.at(sparsity=0.5) == pytest.approx((0.5, 0.5, 0.5))


def test_at_a_point_the_values_drawn_there_are_used():
    drawn = RandomBaseline((0.0, 1 / 3, 1.0), ((0.9, 0.2, 0.1), (0.9, 0.4, 0.1)))
    # 1 - 2/3 is not 1/3 in floating point
    assert drawn.at(sparsity=1 - 2 / 3) == pytest.approx((0.3, 0.205, 0.395))
    assert drawn.at(sparsity=1 - 2 / 3) == (drawn.mean[1], drawn.low[1], drawn.high[1])


def test_beyond_the_grid_nothing_is_known():
    drawn = RandomBaseline((0.1, 0.5), ((0.9, 0.2), (0.9, 0.4)))
    assert np.isnan(drawn.at(sparsity=0.6)).all()
    assert np.isnan(drawn.at(sparsity=0.05)).all()


def test_the_number_of_heads_to_compare_at_is_drawn():
    view = HeadModel(load_model("bundled:encoder").model)
    judged = []

    def evaluate(mask):
        judged.append(len(mask.dropped))
        return float(mask.n_kept)

    found = random_baseline(view, evaluate, rules=Rules(), draws=3, fractions=(0.5,), dropped=5)
    assert found.sparsity == (0.0, 5 / 24, 12 / 24)
    assert judged.count(5) == 3
    assert found.at(sparsity=5 / 24) == (19.0, 19.0, 19.0)


def test_rows_judge_the_draws_as_they_judge_a_model():
    loaded = load_model("bundled:encoder")
    rows, given = sentiment("test", 20), {"tokenizer": loaded.tokenizer}
    found = random_baseline(loaded.model, rows, draws=2, fractions=(0.5,), **given)
    assert found.at(sparsity=0)[0] == evaluate(loaded.model, rows, **given).value
    assert found.n_draws == 2
