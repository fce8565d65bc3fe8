"""A sweep: one loaded model, every plan judged as it is, nothing left behind."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from deadhead import Head, HeadModel, load_model, save_model
from deadhead.errors import (
    BudgetError,
    DataError,
    FileFormatError,
    HeadError,
    MissingDependencyError,
    UnknownNameError,
)
from deadhead.report.page import Page
from deadhead.report.sweep_page import MANY, SweepSummary, sweep_figure, sweep_table
from deadhead.runs.run_settings import LmEvalSettings, SweepSettings, Watch
from deadhead.runs.settings import DataSettings, ModelSettings
from deadhead.runs.sweep import run_sweep
from deadhead.scoring import Scorer, ScorerGroup
from deadhead.similarity import Clustering, head_grams
from deadhead.studies.grid import Point, Reading, SweepGrid, count_points, table_lines
from deadhead.studies.sweep import sweep
from deadhead.surgery import mask_
from deadhead.types import HeadScores
from models import batch, make, outputs
from planted import PlantedScorer


def judged(model):
    return {"sum": Reading("sum", float(outputs(model, batch()).sum()))}


def swept(model, asked, **options):
    view = HeadModel(model)

    def score(criterion):
        rows = tuple(torch.arange(6.0).numpy() for _ in range(3))
        return PlantedScorer(HeadScores(rows, criterion))

    return sweep(
        view,
        None,
        asked,
        [judged],
        scorer_of=score,
        grams=lambda scope: head_grams(view, [batch()], scope=scope),
        **options,
    )


def test_seconds_have_the_whole_pass_that_is_shared(monkeypatch):
    view = HeadModel(make("bert"))
    scorers = ScorerGroup(view, [batch()], ["taylor", "fisher", "magnitude"])
    monkeypatch.setattr(Scorer, "run_pass", lambda self: 100.0 * (str(self.spec) != "magnitude"))
    asked = SweepGrid(
        fractions=(0.5,), criteria=("taylor", "fisher", "magnitude"), actions=("mask",)
    )
    points = sweep(view, None, asked, [judged], scorer_of=scorers.of, grams=lambda scope: None)
    looked = {point.method: point.seconds // 100 for point in points}
    assert looked == {"dense": 0, "taylor": 1, "fisher": 1, "magnitude": 0}


EVERYTHING = SweepGrid(
    fractions=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75),
    clusterings=(
        Clustering(),
        Clustering(distance="euclidean", grouping="nearest_pairs"),
        Clustering(grouping="random"),
    ),
    criteria=("magnitude",),
    actions=("duplicate", "mask", "fold"),
    draws=2,
)


@pytest.mark.slow
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
    asked = SweepGrid((0.5,), (Clustering(grouping="global"),), actions=("fold", "mask"))
    _, fold, mask = swept(make("opt", "causal_lm"), asked)
    assert fold.readings == {}
    assert fold.reason.startswith("not exact: cannot fold head")
    assert "different blocks" in fold.reason
    assert mask.readings["sum"].value == mask.readings["sum"].value


def test_what_only_a_policy_forbids_names_the_policy():
    asked = SweepGrid((0.4,), (Clustering(),), actions=("remove", "fold"), gqa="equalize")
    points = swept(make("llama", "causal_lm"), asked)
    for point in points[1:]:
        assert point.reason.startswith("gqa policy 'equalize' forbids it: cannot remove heads")
    rows = sweep_table(SweepSummary("", table_lines(points))).rows
    said = [row[3] for row in rows[1:]]
    assert all("gqa policy 'equalize'" in text for text in said)
    assert "not exact" not in " ".join(said)
    assert all(
        not p.reason
        for p in swept(
            make("llama", "causal_lm"),
            replace(asked, gqa="ungroup"),
        )[1:]
    )


def test_copies_that_cannot_be_made_are_not_blamed_on_the_policy():
    asked = SweepGrid((0.5,), (Clustering(grouping="global"),), actions=("duplicate", "fold"))
    _, duplicate, fold = swept(make("llama", "causal_lm"), asked)
    assert duplicate.reason.startswith("cannot be done: cannot copy head")
    assert fold.reason.startswith("not exact: cannot ")


@pytest.mark.parametrize(
    ("actions", "under"),
    [(("remove", "mask"), "mask"), (("remove",), "mask"), (("mask", "fold"), "fold")],
)
def test_random_groups_have_a_row_whatever_the_actions(actions, under):
    asked = SweepGrid((0.5,), (Clustering(grouping="random"),), actions=actions, draws=2)
    points = swept(make("opt", "causal_lm"), asked)
    assert len(points) == count_points(asked) == 1 + 2 * 2
    drawn = [point for point in points if point.method == "random groups"]
    assert [(p.action, p.draw, p.dropped) for p in drawn] == [(under, 0, 9), (under, 1, 9)]
    assert drawn[0].readings != drawn[1].readings


def test_as_many_random_heads_go_as_the_groups_beside_them_drop():
    asked = SweepGrid((0.4,), (Clustering(),), actions=("mask",), draws=1)
    _, groups, drawn = swept(make("llama", "causal_lm"), asked)
    assert groups.dropped == drawn.dropped == 7


def test_a_sweep_goes_on_where_it_stopped():
    model, seen = make("opt", "causal_lm"), []
    asked = SweepGrid((0.25, 0.5), (Clustering(),), draws=2)
    whole = swept(model, asked, on_point=seen.append)
    assert seen == whole
    done = {p.key: Point.from_json(json.loads(json.dumps(p.to_json()))) for p in whole[:4]}
    rest = []
    again = swept(model, asked, done=done, on_point=rest.append)
    assert [p.key for p in again] == [p.key for p in whole]
    assert [p.key for p in rest] == [p.key for p in whole[4:]]


DISTILLED = SweepGrid(
    (0.5,),
    criteria=("magnitude",),
    methods=(("greedy", "magnitude"),),
    repairs=("none", "distill"),
    distill_of=("greedy magnitude",),
    actions=("remove",),
    draws=2,
)


def moments_of(model):
    return lambda: Scorer(HeadModel(model), [batch()], None, moments=True).moments


def shift_(model):
    """Stand in for a training: what it changes can be seen in the logits."""
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)


def test_what_is_distilled_is_a_trained_copy_of_the_fitted_model_and_the_rest_is_fitted():
    model, trained = make("bert"), []

    def train(copy):
        trained.append((copy, float(outputs(copy, batch()).sum())))
        shift_(copy)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    points = swept(model, DISTILLED, moments=moments_of(model), train=train)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert len(points) == count_points(DISTILLED)
    values = {point.method: point.readings["sum"].value for point in points}
    fitted = ("magnitude + least_squares", "random heads + least_squares")
    drawn = ("dense", "magnitude", "random heads", "greedy magnitude")
    assert set(values) == {*drawn, *fitted, "greedy magnitude + distill"}
    ((copy, fit),) = trained
    assert copy is not model
    assert HeadModel(copy).mask.n_kept == 9
    assert sum(p.numel() for p in copy.parameters()) < sum(p.numel() for p in model.parameters())
    # both choose the same heads: what is trained is what least_squares leaves
    assert fit == pytest.approx(values["magnitude + least_squares"], abs=1e-9)
    assert values["greedy magnitude + distill"] == pytest.approx(
        float(outputs(copy, batch()).sum())
    )
    assert abs(values["greedy magnitude + distill"] - fit) > 1e-6


def test_an_interrupted_sweep_trains_only_what_was_not():
    model, trained = make("bert"), []
    asked = replace(DISTILLED, distill_of=(), draws=0)
    options = {"moments": moments_of(model), "train": trained.append}
    whole = swept(model, asked, **options)
    assert [p.method for p in whole if "distill" in p.method] == [
        "magnitude + distill",
        "greedy magnitude + distill",
    ]
    assert len(trained) == 2
    trained.clear()
    done = {p.key: p for p in whole if p.method != "greedy magnitude + distill"}
    assert [p.key for p in swept(model, asked, done=done, **options)] == [p.key for p in whole]
    assert len(trained) == 1


def test_what_cannot_be_trained_says_why_and_does_not_blame_the_policy():
    def refuse(copy):
        raise HeadError("no projection can have an adapter")

    model = make("llama", "causal_lm")
    asked = SweepGrid((0.5,), criteria=("magnitude",), repairs=("distill",), actions=("remove",))
    _, point = swept(model, asked, moments=moments_of(model), train=refuse)
    assert point.reason == "cannot be done: no projection can have an adapter"


def test_a_sweep_that_trains_needs_something_to_train_with():
    with pytest.raises(BudgetError, match="give train, which does"):
        swept(make("bert"), DISTILLED)


def test_draws_become_one_line_with_the_range_of_95_percent():
    points = [
        Point("random heads", "mask", 0.5, 9, 0.5, draw, {"t": Reading("accuracy", draw / 10)})
        for draw in range(11)
    ]
    (line,) = table_lines(points)
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
        ({"distill_of": ("tailor",)}, UnknownNameError, "method to distill 'tailor' is not known"),
        ({"actions": ()}, BudgetError, "needs a share of the heads and an action"),
        ({"clusterings": (Clustering(grouping="random"),)}, BudgetError, "say how often"),
    ],
)
def test_what_a_sweep_cannot_do_is_refused_before_anything_is_loaded(values, error, message):
    with pytest.raises(error, match=message):
        SweepGrid(**{"fractions": (0.5,), "clusterings": (Clustering(),), **values})


def test_a_refused_sweep_leaves_nothing_and_other_weights_are_not_gone_on_with(tmp_path):
    loaded = load_model("bundled:decoder")
    save_model(loaded.model, loaded.tokenizer, tmp_path / "model")
    settings = SweepSettings(
        model=ModelSettings(str(tmp_path / "model")),
        data=DataSettings(spec="bundled:agreement", calibration_size=8, test_size=8),
        sweep=SweepGrid((0.25, 0.9), (Clustering(),)),
        output=tmp_path / "sweep",
        measure_speed=False,
    )
    with pytest.raises(BudgetError, match="keeps a representative"):
        run_sweep(settings)
    assert not (tmp_path / "sweep.partial").exists()
    settings = replace(settings, sweep=SweepGrid((0.25,), (Clustering(),)))

    def stop(point):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(settings, watch=Watch(on_work=stop))
    shutil.rmtree(tmp_path / "model")
    mask_(loaded.model, [Head(0, 0)])
    save_model(loaded.model, loaded.tokenizer, tmp_path / "model")
    with pytest.raises(DataError, match="started with another weights"):
        run_sweep(settings, resume=True)


@pytest.fixture
def small(tmp_path):
    """A sweep of one point beside the dense model."""
    return SweepSettings(
        model=ModelSettings("bundled:decoder"),
        data=DataSettings(spec="bundled:agreement", calibration_size=8, test_size=8),
        sweep=SweepGrid((0.25,), (), ("magnitude",), actions=("mask",)),
        output=tmp_path / "sweep",
        measure_speed=False,
    )


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(Page, "write", lambda page, folder: None)


def write_rows(file, **columns):
    frame = pd.DataFrame(columns)
    file.write_text(frame.to_csv(index=False))
    return str(file)


def test_further_test_sets_are_read_by_the_kind_and_columns_that_were_named(
    small, no_figures, tmp_path
):
    texts = ["the dogs run .", "the cat sees a bird ."] * 4
    both = {"body": texts, "text": ["x"] * 8, "label": [0, 1] * 4}
    one, two = (write_rows(tmp_path / f"{n}.csv", **both) for n in ("one", "two"))
    data = DataSettings(
        calibration=one, test=one, kind="perplexity", text_column="body", allow_overlap=True
    )
    (dense, _) = run_sweep(replace(small, data=data, also=(two,))).lines
    first, second = dense.readings.values()
    assert first.metric == second.metric == "perplexity"
    assert first.value == second.value
    plain = write_rows(tmp_path / "plain.csv", text=texts)
    again = replace(small, data=data, also=(plain,), output=tmp_path / "again")
    with pytest.raises(UnknownNameError, match=r"plain\.csv', read as the first: column 'body'"):
        run_sweep(again)


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: ""
target_delimiter: ""
doc_to_target: 0
doc_to_choice: "{{{{[good, bad]}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def tasks_of_lm_eval(tmp_path, monkeypatch):
    """Two tasks, a group that averages them, one that does not, and a tag."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [json.dumps({"good": "the dogs run .", "bad": "run dogs the ."})] * 3
    (folder / "rows.jsonl").write_text("\n".join(rows))
    for name in ("one", "two"):
        places = {"rows": folder / "rows.jsonl", "cache": folder / "cache"}
        text = TASK.format(name=name, **places) + "tag: tagged\n"
        (folder / f"{name}.yaml").write_text(text)
    group = "group: {}\ntask: [one, two]\n"
    (folder / "loose.yaml").write_text(group.format("loose"))
    average = "aggregate_metric_list: [{metric: acc}]\n"
    (folder / "mean.yaml").write_text(group.format("mean") + average)
    return str(folder)


@pytest.mark.slow
def test_groups_of_lm_eval_judge_by_their_metric_or_by_that_of_each_task(
    small, no_figures, tasks_of_lm_eval
):
    for number, (name, judges) in enumerate(
        {"loose": ["one", "two"], "tagged": ["one", "two"], "mean": ["mean"]}.items()
    ):
        settings = replace(
            small,
            lm_eval=LmEvalSettings((name,), include_path=Path(tasks_of_lm_eval)),
            output=small.output / str(number),
        )
        for line in run_sweep(settings).lines:
            found = {k: r for k, r in line.readings.items() if k.startswith("lm-eval")}
            assert list(found) == [f"lm-eval {judge}" for judge in judges]
            assert all(reading.metric == "acc" for reading in found.values())
            assert all(0 <= r.low <= r.value <= r.high <= 1 for r in found.values())


def test_an_unknown_task_of_lm_eval_is_refused_before_the_model_is_loaded(
    small, tasks_of_lm_eval, monkeypatch
):
    monkeypatch.setattr(ModelSettings, "load", lambda self: pytest.fail("loaded"))
    (Path(tasks_of_lm_eval) / "one.yaml").write_text("- no task")
    with pytest.raises(FileFormatError, match="is not a task file"):
        run_sweep(
            replace(small, lm_eval=LmEvalSettings(("two",), include_path=Path(tasks_of_lm_eval)))
        )


def test_a_missing_package_is_named_before_the_model_is_loaded(small, monkeypatch):
    monkeypatch.setattr(ModelSettings, "load", lambda self: pytest.fail("loaded"))
    monkeypatch.setitem(sys.modules, "accelerate", None)
    asked = replace(small.sweep, repairs=("distill",))
    with pytest.raises(MissingDependencyError, match=r'pip install "deadhead\[train\]"'):
        run_sweep(replace(small, sweep=asked))


@pytest.mark.slow
def test_a_whole_sweep_writes_a_folder_and_leaves_the_model_alone(tmp_path):
    settings = SweepSettings(
        model=ModelSettings("bundled:decoder"),
        data=DataSettings(spec="bundled:agreement", calibration_size=16, test_size=24),
        sweep=SweepGrid((0.25, 0.5), (Clustering(),), ("taylor",), draws=2),
        output=tmp_path / "sweep",
        also=("bundled:text",),
        measure_speed=False,
    )
    summary = run_sweep(settings)
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert len(table) == len(summary.lines) == 1 + 2 * (3 + 1 + 1)
    assert (table.heads_dropped[1:] == (table.asked[1:] * 16)).all()
    assert {"bundled:agreement accuracy", "bundled:text perplexity"} <= set(table.columns)
    folds = table[table.action == "fold"]
    dense = sum(p.numel() for p in load_model("bundled:decoder").model.parameters())
    assert (folds.parameters < dense).all()
    page = (tmp_path / "sweep" / "report.html").read_text(encoding="utf-8")
    assert "random heads (2 draws)" in page
    assert not (tmp_path / "sweep.partial").exists()


def test_a_figure_of_many_methods_tells_those_apart_that_are_nearest():
    pytest.importorskip("matplotlib")
    read = {number: {"sum": Reading("sum", 1 - number / 100)} for number in range(30)}
    points = [Point("dense", "mask", 0.0, 0, 0.0, readings=read[0])]
    for number in range(1, 30):
        for share in (0.25, 0.5):
            name = f"method {number}"
            points.append(Point(name, "remove", share, 1, share, readings=read[number]))
    (legend,) = sweep_figure(table_lines(points), "sum").legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["dense", *(f"method {n}" for n in range(1, MANY + 1)), f"{29 - MANY} others"]
