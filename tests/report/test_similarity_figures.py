import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from deadhead.errors import DataError
from deadhead.report import save_figure
from deadhead.report.similarity_figures import (
    Dendrogram,
    agreement_figure,
    attention_figure,
    dendrogram_figure,
    removed_share_figure,
    similarity_heatmap,
)
from deadhead.report.style import GRAY
from deadhead.similarity import HeadDistances, cut_tree, linkage
from deadhead.similarity.agreement import RemovedShare
from deadhead.types import Head

COLUMNS = ["first", "second", "mean", "low", "high", "pairs"]


def artists(figure, gid):
    return [a for a in figure.findobj() if (a.get_gid() or "").startswith(gid)]


def matrix_of(n, seed=0):
    points = np.random.default_rng(seed).random((n, 5))
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def tree_of(n, seed=0):
    return linkage(matrix_of(n, seed), "euclidean")


def names(n):
    return tuple(map(str, range(n)))


def figure_of(*args):
    return dendrogram_figure([Dendrogram(*args)])


def links(figure):
    """Lines of the trees: color and corners, shape (4, 2), of each merge."""
    return [
        (to_hex(collection.get_color()[0]), np.array(segment))
        for axes in figure.axes
        for collection in axes.collections
        for segment in collection.get_segments()
    ]


@pytest.mark.parametrize("n_groups", range(1, 9))
def test_the_cut_is_between_the_merges_that_are_done_and_those_that_are_not(n_groups):
    tree = tree_of(8)
    (line,) = artists(figure_of(tree, names(8), n_groups), "cut")
    height = line.get_ydata()[0]
    assert (tree[:, 2] < height).sum() == 8 - n_groups
    assert line.is_dashed()


@pytest.mark.parametrize("n_groups", range(1, 9))
def test_the_heads_of_each_group_stand_below_its_color(n_groups):
    tree = tree_of(8)
    figure = figure_of(tree, tuple(f"h{i}" for i in range(8)), n_groups)
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    under: dict[str, set] = {}
    for color, corners in links(figure):
        leaves = {labels[int(x // 10)] for x, y in corners if y == 0}  # SciPy: leaf i at 10 i + 5
        under.setdefault(color, set()).update(leaves if color != GRAY else ())
    under.pop(GRAY, None)
    expected = [{f"h{i}" for i in g} for g in cut_tree(tree, n_groups) if len(g) > 1]
    assert sorted(map(sorted, under.values())) == sorted(map(sorted, expected))
    assert sum(color == GRAY for color, _ in links(figure)) == n_groups - 1


def test_groups_are_right_where_merges_tie():
    matrix = np.ones((4, 4)) - np.eye(4)
    one = Dendrogram(linkage(matrix, "euclidean"), names(4), 2)
    assert sum(node >= 4 for node in one.colors()) == 2


def test_without_a_cut_there_is_no_line_and_no_color():
    figure = figure_of(tree_of(8), names(8))
    assert artists(figure, "cut") == []
    assert {color for color, _ in links(figure)} == {GRAY}


def test_one_head_alone_is_drawn(tmp_path):
    figure = figure_of(np.zeros((0, 4)), ("0",), 1, "block 0")
    assert len(save_figure(figure, tmp_path, "one")) == 2


def test_heads_are_not_named_where_names_would_overlap():
    figure = figure_of(tree_of(130), names(130), 65)
    assert not any(t.get_text() for t in figure.axes[0].get_xticklabels())
    assert figure.axes[0].get_xlabel() == "130 heads"


def test_trees_of_a_grid_share_one_scale():
    trees = [Dendrogram(tree_of(8, s) * [1, 1, s + 1, 1], names(8), 4) for s in range(5)]
    figure = dendrogram_figure(trees)
    tops = {axes.get_ylim()[1] for axes in figure.axes if axes.axison}
    assert len(tops) == 1
    assert tops.pop() > max(d.tree[-1, 2] for d in trees)
    assert len(artists(figure, "cut")) == 5


def test_neither_pyplot_nor_the_palette_of_scipy_is_touched(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pylab", None)
    figure_of(tree_of(8), names(8), 3)


def test_trees_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"3 labels .* for a tree of 8 units"):
        Dendrogram(tree_of(8), names(3))
    with pytest.raises(DataError, match=r"9 groups for a tree of 8 units; .*ask for 1 to 8"):
        Dendrogram(tree_of(8), names(8), 9)
    with pytest.raises(DataError, match="no tree to draw"):
        dendrogram_figure([])


def all_heads(counts):
    heads = tuple((Head(b, i),) for b, n in enumerate(counts) for i in range(n))
    return HeadDistances((matrix_of(len(heads)),), (heads,), "euclidean")


def test_the_heat_map_has_every_distance_and_a_line_between_blocks():
    distances = all_heads((3, 5, 2))
    figure = similarity_heatmap(distances)
    (image,) = artists(figure, "distances")
    assert np.array_equal(image.get_array(), distances.matrices[0])
    borders = artists(figure, "border")
    assert sorted(line.get_ydata()[0] for line in borders if line.get_ydata()[0] > 1) == [2.5, 7.5]
    assert len(borders) == 4
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["0", "1", "2"]


def test_a_heat_map_of_blocks_apart_is_refused():
    units = tuple(tuple((Head(b, i),) for i in range(3)) for b in range(2))
    apart = HeadDistances((matrix_of(3), matrix_of(3)), units, "euclidean")
    with pytest.raises(DataError, match="one matrix of all heads, these are 2"):
        similarity_heatmap(apart)


def test_agreement_has_a_point_per_row_and_an_interval_where_there_is_one(tmp_path):
    rows = [("a", "a", 0.8, 0.7, 0.9, 3), ("a", "b", 0.1, -0.1, 0.3, 9)]
    frame = pd.DataFrame([*rows, ("b", "b", 0.5, np.nan, np.nan, 1)], columns=COLUMNS)
    figure = agreement_figure(frame)
    assert sorted(p.get_xdata()[0] for p in artists(figure, "mean")) == [0.1, 0.5, 0.8]
    spans = {tuple(line.get_xdata()) for line in artists(figure, "interval")}
    assert spans == {(0.7, 0.9), (-0.1, 0.3)}
    assert len(figure.legends[0].get_texts()) == 2
    save_figure(figure, tmp_path, "agreement")
    with pytest.raises(DataError, match="no agreement to draw"):
        agreement_figure(frame.iloc[:0])


def test_the_share_of_important_heads_is_drawn_beside_chance():
    rows = [
        RemovedShare(s, d / 20, max(0, d / 20 - 0.2), d / 20 + 0.2, 5, d, 20)
        for s, d in ((0.6, 10), (0.2, 2))
    ]
    figure = removed_share_figure(rows, criterion="taylor")
    (line,) = artists(figure, "share")
    assert line.get_xdata() == pytest.approx([10, 50])
    assert line.get_ydata() == pytest.approx([20, 60])
    (band,) = artists(figure, "chance")
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(70)
    assert "5 most important by taylor" in figure.axes[0].get_ylabel()
    with pytest.raises(DataError, match="at least one percentage"):
        removed_share_figure([])


@pytest.mark.parametrize("n_maps", [1, 4, 5, 9])
@pytest.mark.slow
def test_each_head_has_a_panel_with_its_map(n_maps, tmp_path):
    rng = np.random.default_rng(0)
    maps = [rng.dirichlet(np.ones(3), 3) for _ in range(n_maps)]
    heads = [Head(0, i) for i in range(n_maps)]
    figure = attention_figure(maps, ["<s>", "a$b", "_c"], heads)
    images = artists(figure, "map")
    assert len(images) == n_maps
    for image, weights, head in zip(images, maps, heads, strict=True):
        assert np.array_equal(image.get_array(), weights)
        assert image.get_clim() == (0, 1)
        assert image.axes.get_title() == f"head {head}"
    if n_maps == 5:
        save_figure(figure, tmp_path, "attention")
        labels = [t.get_text().strip() for t in images[0].axes.get_yticklabels()]
        assert labels == ["<s>", r"a\$b", "_c"]


def test_maps_that_do_not_fit_the_tokens_are_refused():
    with pytest.raises(DataError, match="1 attention maps of 2 tokens for 1 heads"):
        attention_figure([np.eye(3)], ["a", "b"], ["0.0"])
    with pytest.raises(DataError, match="0 attention maps"):
        attention_figure([], ["a"], [])
