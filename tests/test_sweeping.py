"""A sweep: one loaded model, every plan judged as it is, nothing left behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, load_model, save_model
from deadhead.errors import BudgetError, DataError, UnknownNameError
from deadhead.runs import DataSettings, ModelSettings
from deadhead.runs.sweep import SweepSettings, conduct_sweep
from deadhead.similarity import Clustering, head_grams
from deadhead.surgery import mask_
from deadhead.sweeping import Point, Reading, Sweep, count_points, lines_of, sweep
from deadhead.types import HeadScores
from models import batch, make, outputs


def judged(model):
    return Reading("sum", float(outputs(model, batch()).sum()))


def swept(model, asked, **options):
    view = HeadModel(model)

    def score(criterion):
        return lambda mask: HeadScores(
            tuple(torch.arange(6.0).numpy() for _ in range(3)), criterion
        )

    return sweep(
        view,
        asked,
        {"sum": judged},
        score=score,
        grams=lambda scope: head_grams(view, [batch()], scope=scope),
        **options,
    )


EVERYTHING = Sweep(
    fractions=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75),
    clusterings=(
        Clustering(),
        Clustering("euclidean", "nearest_pairs"),
        Clustering(grouping="random"),
    ),
    criteria=("magnitude",),
    actions=("duplicate", "mask", "fold"),
    draws=2,
)


def test_weights_are_bit_for_bit_what_they_were_and_every_action_is_judged_as_it_is():
    model = make("opt", "causal_lm")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    points = swept(model, EVERYTHING)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert len(points) == count_points(EVERYTHING) == 1 + 8 * (6 + 1 + 4)
    assert len({point.key for point in points}) == len(points)
    found = {point.key: point.readings["sum"].value for point in points}
    for fraction in EVERYTHING.fractions:
        for method in ("cosine balanced", "euclidean nearest_pairs"):
            duplicate, mask, fold = (
                found[method, action, fraction, 0] for action in ("duplicate", "mask", "fold")
            )
            assert duplicate == pytest.approx(fold, abs=1e-8)
            assert abs(duplicate - mask) > 1e-6
        assert (
            found["random heads", "mask", fraction, 0] != found["random heads", "mask", fraction, 1]
        )
        drawn = [found["random groups", "duplicate", fraction, draw] for draw in (0, 1)]
        assert drawn[0] != drawn[1]
    for point in points[1:]:
        assert point.dropped == round(point.asked * 18 - 1e-9)


def test_what_cannot_be_exact_says_why_and_the_rest_goes_on():
    asked = Sweep((0.5,), (Clustering(grouping="global"),), actions=("fold", "mask"))
    _, fold, mask = swept(make("opt", "causal_lm"), asked)
    assert fold.readings == {}
    assert "different blocks" in fold.reason
    assert mask.readings["sum"].value == mask.readings["sum"].value


def test_as_many_random_heads_go_as_the_groups_beside_them_drop():
    asked = Sweep((0.4,), (Clustering(),), actions=("mask",), draws=1)
    _, groups, drawn = swept(make("llama", "causal_lm"), asked)
    assert groups.dropped == drawn.dropped == 7


def test_a_sweep_goes_on_where_it_stopped():
    model, seen = make("opt", "causal_lm"), []
    asked = Sweep((0.25, 0.5), (Clustering(),), draws=2)
    whole = swept(model, asked, on_point=seen.append)
    assert seen == whole
    done = {p.key: Point.from_json(json.loads(json.dumps(p.to_json()))) for p in whole[:4]}
    rest = []
    again = swept(model, asked, done=done, on_point=rest.append)
    assert [p.key for p in again] == [p.key for p in whole]
    assert [p.key for p in rest] == [p.key for p in whole[4:]]


def test_draws_become_one_line_with_the_range_of_95_percent():
    points = [
        Point("random heads", "mask", 0.5, 9, 0.5, draw, {"t": Reading("accuracy", draw / 10)})
        for draw in range(11)
    ]
    (line,) = lines_of(points)
    assert line.draws == 11
    assert line.readings["t"].value == pytest.approx(0.5)
    assert (line.readings["t"].low, line.readings["t"].high) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"fractions": (1.5,)}, BudgetError, "a fraction is in"),
        ({"actions": ("folded",)}, UnknownNameError, "did you mean 'fold'"),
        ({"criteria": ("tailor",)}, UnknownNameError, "did you mean 'taylor'"),
        ({"draws": -1}, BudgetError, "give 0"),
        ({"actions": ()}, BudgetError, "needs a share of the heads and an action"),
        ({"clusterings": (Clustering(grouping="random"),)}, BudgetError, "say how often"),
    ],
)
def test_what_a_sweep_cannot_do_is_refused_before_anything_is_loaded(values, error, message):
    with pytest.raises(error, match=message):
        Sweep(**{"fractions": (0.5,), "clusterings": (Clustering(),), **values})


def test_a_refused_sweep_leaves_nothing_and_other_weights_are_not_gone_on_with(tmp_path):
    loaded = load_model("bundled:decoder")
    save_model(loaded.model, loaded.tokenizer, tmp_path / "model")
    settings = SweepSettings(
        model=ModelSettings(str(tmp_path / "model")),
        data=DataSettings(spec="bundled:agreement", calibration_size=8, test_size=8),
        sweep=Sweep((0.25, 0.9), (Clustering(),)),
        output=tmp_path / "sweep",
        measure_speed=False,
    )
    with pytest.raises(BudgetError, match="keeps a representative"):
        conduct_sweep(settings)
    assert not (tmp_path / ".sweep.partial").exists()
    settings = replace(settings, sweep=Sweep((0.25,), (Clustering(),)))

    def stop(point):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conduct_sweep(settings, on_point=stop)
    shutil.rmtree(tmp_path / "model")
    mask_(loaded.model, PruningPlan(HeadModel(loaded.model).mask.drop(Head(0, 0))))
    save_model(loaded.model, loaded.tokenizer, tmp_path / "model")
    with pytest.raises(DataError, match="started with another weights"):
        conduct_sweep(settings, resume=True)


@pytest.mark.slow
def test_a_whole_sweep_writes_a_folder_and_leaves_the_model_alone(tmp_path):
    settings = SweepSettings(
        model=ModelSettings("bundled:decoder"),
        data=DataSettings(spec="bundled:agreement", calibration_size=16, test_size=24),
        sweep=Sweep((0.25, 0.5), (Clustering(),), ("taylor",), draws=2),
        output=tmp_path / "sweep",
        also=("bundled:text",),
        measure_speed=False,
    )
    summary = conduct_sweep(settings)
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert len(table) == len(summary.lines) == 1 + 2 * (3 + 1 + 1)
    assert (table.heads_dropped[1:] == (table.asked[1:] * 16)).all()
    assert {"bundled:agreement accuracy", "bundled:text perplexity"} <= set(table.columns)
    folds = table[table.action == "fold"]
    dense = sum(p.numel() for p in load_model("bundled:decoder").model.parameters())
    assert (folds.parameters < dense).all()
    page = (tmp_path / "sweep" / "report.html").read_text(encoding="utf-8")
    assert "random heads (2 draws)" in page
    assert not (tmp_path / ".sweep.partial").exists()
