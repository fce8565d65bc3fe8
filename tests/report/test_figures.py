import sys

import numpy as np
import pytest

from deadhead.errors import DataError, HeadError, MissingDependencyError
from deadhead.report import curve_figure, head_map_figure, save_figure
from deadhead.types import Head, HeadMask, HeadScores

from .conftest import COUNTS, make_random, make_trajectory


def artists(figure, gid):
    return [a for a in figure.findobj() if (a.get_gid() or "").startswith(gid)]


def test_crosses_stand_on_exactly_the_removed_heads(scores):
    mask = HeadMask.full(COUNTS).drop(Head(0, 3), Head(1, 0), Head(2, 2))
    (crosses,) = artists(head_map_figure(scores, mask), "removed")
    drawn = {Head(int(y), int(x)) for x, y in crosses.get_offsets()}  # centers at .5
    assert drawn == set(mask.dropped)
    assert len(crosses.get_offsets()) == len(mask.dropped)


def test_nothing_is_crossed_out_without_a_mask(scores):
    assert artists(head_map_figure(scores), "removed") == []


def test_only_heads_without_a_score_are_hatched():
    scores = HeadScores((np.array([1.0, np.nan, 2.0]), np.array([np.nan])), "file")
    (hatched,) = artists(head_map_figure(scores), "not-scored")
    assert hatched.get_hatch()
    mask = np.ma.getmaskarray(hatched.get_array()).reshape(2, 3)
    # block 1 has one head: the two places right of it are no heads, and stay blank
    assert mask.tolist() == [[True, False, True], [False, True, True]]


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ([1.0, 2.0, 3.0], "taylor"),
        ([1e-6, 1e-3, 1.0], "taylor (log scale)"),
        ([-np.inf, -3.0, 2.0], "rank by taylor (0 = least)"),
        ([-1e9, 0.0, 0.1, 0.2, 0.3], "rank by taylor (0 = least)"),
        ([5.0, 5.0], "taylor"),
        ([-np.inf, -np.inf], "rank by taylor (0 = least)"),
        ([np.nan], "rank by taylor (0 = least)"),
    ],
)
def test_scale_suits_the_scores(values, label):
    figure = head_map_figure(HeadScores((np.array(values),), "taylor"))
    labels = {text for a in figure.findobj() for text in _labels(a)}
    assert label in labels
    figure.draw_without_rendering()


def _labels(artist):
    found = [getattr(artist, name, str)() for name in ("get_xlabel", "get_ylabel")]
    return [text for text in found if text]


def test_ties_share_a_rank_and_minus_infinity_is_lowest():
    figure = head_map_figure(HeadScores((np.array([2.0, -np.inf, 2.0]),), "gradient_norm"))
    (mesh,) = artists(figure, "scores")
    assert mesh.get_array().tolist() == [[1.5, 0.0, 1.5]]


def test_mask_of_another_model_is_refused(scores):
    with pytest.raises(HeadError, match="the mask is for blocks of"):
        head_map_figure(scores, HeadMask.full((4, 4)))


def test_curve_has_the_dense_line_and_a_point_where_evaluated():
    trajectory = make_trajectory(n_steps=5)
    steps = list(trajectory.steps)
    steps[2] = type(steps[2])(steps[2].mask, steps[2].dropped, float("nan"), 0.1)
    trajectory = type(trajectory)(trajectory.start, tuple(steps))
    figure = curve_figure({"taylor": trajectory})
    (dense,) = artists(figure, "dense")
    assert set(dense.get_ydata()) == {0.9}
    assert dense.is_dashed()
    (curve,) = artists(figure, "curve")
    assert len(curve.get_xdata()) == 5  # the start and 4 of 5 steps
    assert curve.get_xdata()[-1] == pytest.approx(100 * 5 / 9)


def test_curves_of_one_model_share_one_dense_line():
    curves = {"a": make_trajectory(), "b": make_trajectory(loss=0.1)}
    assert len(artists(curve_figure(curves), "dense")) == 1


def test_random_interval_chance_and_choice_are_drawn():
    figure = curve_figure(
        {"taylor": make_trajectory()}, random=make_random(), chance=0.5, chosen=(0.4, 0.7)
    )
    assert len(artists(figure, "random")) == 1
    assert len(artists(figure, "chosen")) == 1
    legend = " ".join(t.get_text() for t in figure.legends[0].get_texts())
    for word in ("random", "dense (0.900)", "chance", "20 draws", "taylor"):
        assert word in legend


def test_curves_of_different_metrics_are_refused():
    curves = {"a": make_trajectory(), "b": make_trajectory(metric="perplexity")}
    with pytest.raises(DataError, match="one figure shows curves of one metric"):
        curve_figure(curves)


def test_a_run_without_any_evaluation_is_drawn(tmp_path):
    trajectory = make_trajectory(n_steps=0, dense=float("nan"))
    figure = curve_figure({"taylor": trajectory})
    assert artists(figure, "dense") == []
    assert len(save_figure(figure, tmp_path, "curve")) == 2


def test_names_are_not_read_as_formulas_or_hidden(tmp_path):
    figure = curve_figure({"$x^{": make_trajectory(), "_b\n字": make_trajectory()})
    save_figure(figure, tmp_path, "curve")
    assert len(figure.legends[0].get_texts()) == 3


@pytest.mark.slow
def test_svg_bytes_do_not_change_between_writings(scores, tmp_path, monkeypatch):
    def write(folder, date):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
        maps = save_figure(head_map_figure(scores), tmp_path / folder, "map")
        return maps + save_figure(curve_figure({"a": make_trajectory()}), tmp_path / folder, "c")

    first, second = write("one", "1"), write("two", "1000000000")
    assert [p.name for p in first] == ["map.png", "map.svg", "c.png", "c.svg"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(p.name for p in first)


def test_neither_pyplot_nor_global_settings_are_touched(scores, tmp_path, monkeypatch):
    import matplotlib

    def settings():  # reading "backend" would import pyplot
        return {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != "backend"}

    before = settings()
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    save_figure(head_map_figure(scores), tmp_path, "map")
    assert settings() == before


def test_missing_matplotlib_names_the_command(scores, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'deadhead\[plot\]'"):
        head_map_figure(scores)
    with pytest.raises(MissingDependencyError, match=r"pip install 'deadhead\[plot\]'"):
        curve_figure({"a": make_trajectory()})


def test_without_scores_the_map_shows_what_is_gone_and_no_bar():
    mask = HeadMask.full(COUNTS).drop(Head(0, 3), Head(1, 0))
    figure = head_map_figure(None, mask)
    (crosses,) = artists(figure, "removed")
    assert {Head(int(y), int(x)) for x, y in crosses.get_offsets()} == set(mask.dropped)
    (plain,) = artists(figure, "not-scored")
    assert plain.get_hatch() is None
    assert crosses.get_zorder() > plain.get_zorder()
    assert len(figure.axes) == 1
    figure.draw_without_rendering()
    with pytest.raises(DataError, match="nothing to map"):
        head_map_figure(None)
