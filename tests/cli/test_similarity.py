"""deadhead similarity: how alike heads are, and groups, without pruning."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, load_model, save_model
from deadhead.data.prompts import open_prompts
from deadhead.report.page import Page
from deadhead.similarity import Clustering, HeadDistances, cluster, copies_of, measured
from deadhead.similarity import head_grams as grams_of
from deadhead.surgery import applied
from deadhead.surgery.duplicate import check_copies

MODEL = "bundled:decoder"
SMALL = (MODEL, "-n", "6", "--draws", "1", "-o", "out")


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(Page, "write", lambda page, folder: None)


@pytest.fixture
def similarity(deadhead, no_figures):
    return lambda *options: deadhead("similarity", *SMALL, *options)


@pytest.fixture
def two_files(tmp_path):
    """Two files of 12 prompts each, one in the predecessor's format."""
    from deadhead import bundled

    texts = bundled.text("calibration", 24)
    (tmp_path / "one.tsv").write_text("".join(f"{t}\t{i}\n" for i, t in enumerate(texts[:12])))
    (tmp_path / "two.txt").write_text("".join(f"{t}\n" for t in texts[12:]))
    return ("--prompts", "one.tsv", "--prompts", "two.txt")


def read(tmp_path, name):
    return json.loads((tmp_path / "out" / name).read_text())


def rows_of(tmp_path, name):
    with (tmp_path / "out" / name).open() as file:
        return list(csv.DictReader(file))


def test_the_folder_has_distances_groups_a_plan_and_a_log(similarity, tmp_path):
    found = similarity("--heads", "25%")
    assert found.code == 0, found.err
    within = HeadDistances.from_json(read(tmp_path, "distances.json"))
    across = HeadDistances.from_json(read(tmp_path, "distances_global.json"))
    assert [m.shape for m in within.matrices] == [(4, 4)] * 4
    assert [m.shape for m in across.matrices] == [(16, 16)]
    for block, matrix in enumerate(within.matrices):
        part = slice(4 * block, 4 * block + 4)
        assert np.allclose(matrix, across.matrices[0][part, part], rtol=1e-9, atol=1e-12)
    groups = read(tmp_path, "groups.json")
    assert (groups["asked"], groups["actual"]) == (0.25, 0.25)
    assert len(groups["groups"]) == 12
    members = sorted(h for g in groups["groups"] for (h,) in g["members"])
    assert members == sorted(str(Head(b, i)) for b in range(4) for i in range(4))
    plan = PruningPlan.from_json(read(tmp_path, "plan.json"))
    assert plan.action == "duplicate"
    assert len(plan.mask.dropped) == len(plan.copies) == 4
    log = (tmp_path / "out" / "pruning_log.txt").read_text().splitlines()
    taken = {(h.block, s.index, h.index) for h, s in plan.copies.items()}
    assert {tuple(map(int, line.split(","))) for line in log} == taken
    assert read(tmp_path, "run.json")["run"]["data"]["bundled:text"]["size"] == 6
    assert not (tmp_path / "out" / "agreement.csv").exists()


def test_the_groups_are_those_of_the_library(similarity, tmp_path):
    assert similarity("--distance", "euclidean", "--grouping", "nearest_pairs").code == 0
    loaded = load_model(MODEL)
    view = HeadModel(loaded.model)
    prompts = open_prompts("bundled:text", loaded.tokenizer, config=loaded.model.config, n=6)
    clustering = Clustering(distance="euclidean", grouping="nearest_pairs")
    found = measured(view, grams_of(view, prompts.batches()), clustering)
    expected = copies_of(cluster(found, 8, clustering))
    plan = PruningPlan.from_json(read(tmp_path, "plan.json"))
    assert plan.copies == expected
    check_copies(view, plan.copies)
    with applied(view, plan):
        pass


def test_the_table_has_the_closest_pair_of_each_block(similarity, tmp_path):
    out = similarity("--heads", "4").out
    within = HeadDistances.from_json(read(tmp_path, "distances.json"))
    for block, matrix in enumerate(within.matrices):
        away = matrix + np.diag([np.inf] * 4)
        a, b = np.unravel_index(away.argmin(), away.shape)
        assert re.search(rf"{block}\.{a}, {block}\.{b} +{away.min():.3f}", out)
    assert (
        "asked 4 heads, actual 25.0%: 4 of 16 heads are represented by another, 12 are kept" in out
    )


def test_json_is_one_object_on_stdout(similarity):
    found = similarity("--json", "--importance", "magnitude")
    assert found.code == 0, found.err
    whole = json.loads(Path(found.json["files"]["run"]).read_text())
    assert whole["actual"] == whole["asked"] == 0.5
    assert whole["agreement"] == []
    assert whole["closest"]["distance"] > 0
    assert "━" not in found.err


def test_groups_of_all_blocks_give_a_log_of_four_columns(similarity, tmp_path):
    assert similarity("--grouping", "global", "--heads", "75%").code == 0
    plan = PruningPlan.from_json(read(tmp_path, "plan.json"))
    assert any(h.block != s.block for h, s in plan.copies.items())
    log = (tmp_path / "out" / "pruning_log.txt").read_text().splitlines()
    assert {len(line.split(",")) for line in log} == {4}


def test_prompt_sets_are_compared_with_each_other_and_with_themselves(
    similarity, two_files, tmp_path
):
    found = similarity(*two_files, "--draws", "3")
    assert found.code == 0, found.err
    rows = {(r["first"], r["second"]): r for r in rows_of(tmp_path, "agreement.csv")}
    pairs = {key: int(row["pairs"]) for key, row in rows.items()}
    assert pairs == {("one", "one"): 3, ("one", "two"): 9, ("two", "two"): 3}
    assert all(-1 <= float(row["mean"]) <= 1 for row in rows.values())
    assert "one, two" in found.out
    assert set(read(tmp_path, "run.json")["run"]["data"]) == {"one", "two"}


def test_the_column_of_prompts_is_named_as_in_the_other_commands(similarity, two_files):
    assert similarity(*two_files[:2], "--prompt-column", "prompt").code == 0
    line = similarity(*two_files[:2], "--prompt-column", "prmpt", "-o", "other").refused()
    assert "column 'prmpt' is not known; did you mean 'prompt'" in line


def test_draws_that_are_the_same_prompts_are_not_counted_as_agreement(
    similarity, two_files, tmp_path
):
    found = similarity(*two_files, "--draws", "3", "-n", "12")
    assert found.code == 0, found.err
    (row,) = rows_of(tmp_path, "agreement.csv")
    assert (row["first"], row["second"], row["pairs"]) == ("one", "two", "1")
    assert "3 draws of one were asked for, and there are 1" in found.err


def test_random_groups_do_not_agree_with_themselves(similarity, tmp_path):
    assert similarity("--grouping", "random", "--draws", "4").code == 0
    (row,) = rows_of(tmp_path, "agreement.csv")
    assert float(row["mean"]) < 0.9


def test_important_heads_are_followed_from_10_to_90_percent(similarity, tmp_path):
    (tmp_path / "table.csv").write_text("9,1,1,1\n" * 4)  # head 0 of each block is important
    found = similarity("--importance", "table.csv", "--important", "4")
    assert found.code == 0, found.err
    rows = rows_of(tmp_path, "removed_share.csv")
    # a block of 4 keeps one: at most 12 of 16 heads go
    assert [int(r["n_dropped"]) for r in rows] == [2, 3, 5, 6, 8, 10, 11]
    assert "no groups at 80%, 90%" in found.err
    plan = PruningPlan.from_json(read(tmp_path, "plan.json"))
    at_half = next(r for r in rows if r["n_dropped"] == "8")
    gone = sum(not plan.mask.keeps(Head(b, 0)) for b in range(4))
    assert float(at_half["share"]) == gone / 4


def test_importance_decides_the_budget(similarity, tmp_path):
    (tmp_path / "table.csv").write_text("9,9,9,9\n9,9,9,9\n9,9,9,9\n1,2,3,4\n")
    options = ("--grouping", "importance_budget", "--importance", "table.csv", "--heads", "3")
    assert similarity(*options).code == 0
    plan = PruningPlan.from_json(read(tmp_path, "plan.json"))
    assert {head.block for head in plan.mask.dropped} == {3}


def test_one_table_of_several_is_named_by_its_key(similarity, tmp_path):
    rows = {"flat": [[1.0] * 4] * 4, "last:x=1": [[9.0] * 4] * 3 + [[1.0, 2.0, 3.0, 4.0]]}
    tables = {name: {"values": table} for name, table in rows.items()}
    (tmp_path / "scores.json").write_text(json.dumps(tables))
    options = ("--grouping", "importance_budget", "--heads", "3", "--importance")
    assert similarity(*options, "scores.json:last:x=1").code == 0
    plan = PruningPlan.from_json(read(tmp_path, "plan.json"))
    assert {head.block for head in plan.mask.dropped} == {3}
    line = similarity(*options, "scores.json:lats", "-o", "other").refused()
    assert "table of 'scores.json' 'lats' is not known" in line
    line = similarity(*options, "scores.json", "-o", "other").refused()
    assert "'scores.json' holds 2 tables" in line


MAGNITUDE = ("--importance", "magnitude", "--important")
REFUSED = [
    ((*MAGNITUDE, "400%"), "'400%' is not an amount of heads: write 1% to 100%"),
    ((*MAGNITUDE, "0"), "'0' is not an amount of heads: write"),
    ((*MAGNITUDE, "0.1%"), "0.10% of 16 heads is no head; call at least one important"),
    ((*MAGNITUDE, "17"), "17 heads were asked for, but the model has 16"),
    (("--distance", "cosin"), "distance 'cosin' is not known; did you mean 'cosine'"),
    (("--grouping", "balanced_"), "grouping 'balanced_'.*did you mean 'balanced'"),
    (("--representative", "medoit"), "did you mean 'medoid'"),
    (("--unit", "heads"), "unit 'heads' is not known; did you mean 'head'"),
    (("--ward-on", "rawr"), "did you mean 'raw'"),
    (("--first-token", "dorp"), "did you mean 'drop'"),
    (("--importance", "tayler"), "criterion 'tayler' is not known; did you mean 'taylor'"),
    (("--importance", "no.npy"), "'no.npy'.*importance table"),
    (("--grouping", "importance_budget"), "'importance_budget' needs importance; give --imp"),
    (("--heads", "80%"), "13 heads cannot be removed: each of 4 cells keeps.*ask for 0 to 12"),
    (("--heads", "100%"), "16 heads cannot be removed: each of 4 cells keeps a representative"),
    (("--heads", "1%"), "0 of 16 heads cannot be removed"),
    (("--heads", "0"), "'0' is not an amount of heads: write"),
    (("--grouping", "global", "--heads", "16"), "16 heads cannot be removed.*ask for 0 to 15"),
    (("--draws", "0"), "0 draws of prompts; give 1 or more"),
    (("-n", "0"), "'0' is not a number of examples"),
    (("--prompts", "nothing.tsv"), "'nothing.tsv'"),
    (("--prompts", "bundled:text", "--prompts", "bundled:text"), "given twice; give each once"),
    (("--prompts", "bundled:txt"), "did you mean 'text'"),
    (("--max-length", "1"), "max_length 1 leaves nothing to judge"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[" ".join(o) for o, _ in REFUSED])
def test_bad_input_is_one_line_and_leaves_nothing(similarity, tmp_path, options, said):
    line = similarity(*options).refused()
    assert re.search(said, line), line
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.fixture(scope="module")
def without_start(tmp_path_factory):
    """The bundled decoder with a tokenizer that adds no start token."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    loaded = load_model(MODEL)
    save_model(loaded.model, loaded.tokenizer, folder)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))
    return folder


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "'p.txt' has no rows"),
        (" \n\n", "'p.txt' has no rows"),
        ("behind\n\nbehind\n", "every prompt has one token.*give longer prompts"),
    ],
)
@pytest.mark.slow
def test_prompts_that_tell_nothing_are_refused(deadhead, without_start, tmp_path, content, said):
    (tmp_path / "p.txt").write_text(content)
    line = deadhead("similarity", without_start, "--prompts", "p.txt", "-o", "out").refused()
    assert re.search(said, line), line
    assert not (tmp_path / "out").exists()


def test_long_prompts_are_truncated_with_a_word_or_refused(similarity, tmp_path):
    (tmp_path / "p.txt").write_text("the dogs " * 100 + "\nthe dogs run\n")
    found = similarity("--prompts", "p.txt")
    assert found.code == 0, found.err
    assert "1 of 2 prompts were truncated to 64 tokens" in found.err
    line = similarity("--prompts", "p.txt", "--strict", "-o", "other").refused()
    assert "1 of 2 prompts are longer than 64 tokens" in line


def test_a_model_of_ones_own_needs_prompts(deadhead, cut):
    line = deadhead("similarity", cut, "-o", "out").refused()
    assert "no prompts are named; give --prompts" in line


def test_a_full_folder_is_left_alone(similarity, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert "output folder 'out' is not empty" in similarity().refused()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_heads_that_are_gone_are_left_out(deadhead, no_figures, cut, tmp_path):
    options = ("--prompts", "bundled:sentiment", "-n", "4", "--draws", "1", "--heads", "10")
    found = deadhead("similarity", cut, *options, "-o", "out")
    assert found.code == 0, found.err
    sizes = [len(m) for m in HeadDistances.from_json(read(tmp_path, "distances.json")).matrices]
    assert sizes == [4, 6, 5, 5]  # 4 of 24 were cut before, and count
    plan = PruningPlan.from_json(read(tmp_path, "plan.json"))
    assert (len(plan.mask.dropped), len(plan.copies)) == (10, 6)
    assert not (tmp_path / "out" / "pruning_log.txt").exists()
    assert "no pruning log was written" in found.err


@pytest.fixture(scope="module")
def shared_keys(tmp_path_factory):
    """A random model of 2 blocks with 4 query heads on 2 key/value heads each."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "shared"
    tokenizer = load_model(MODEL).tokenizer
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads)
    save_model(LlamaForCausalLM(config), tokenizer, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["head", "kv"])
def test_heads_are_grouped_as_they_share_keys(deadhead, tmp_path, shared_keys, unit):
    options = ("--prompts", "bundled:text", "-n", "4", "--draws", "1", "-o", "out", "--unit", unit)
    found = deadhead("similarity", shared_keys, *options)
    assert found.code == 0, found.err
    plan = PruningPlan.from_json(read(tmp_path, "plan.json"))
    assert len(plan.copies) == 4
    pairs = {(h.index // 2, s.index // 2) for h, s in plan.copies.items()}
    inside = all(own == other for own, other in pairs)
    assert inside is (unit == "head")
    view = HeadModel(load_model(str(shared_keys)).model)
    with applied(view, plan):
        pass
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('id="dendrograms-axes_') == (4 if unit == "head" else 2)


def test_key_value_heads_go_whole(deadhead, shared_keys):
    options = ("similarity", shared_keys, "--prompts", "bundled:text", "--unit", "kv", "--draws")
    line = deadhead(*options, "1", "--heads", "3", "-o", "out").refused()
    assert "3 of 8 heads cannot be removed" in line
    assert "ask for 2 or 4" in line


@pytest.mark.slow
def test_figures_and_a_page_that_needs_nothing_else(deadhead, two_files, tmp_path):
    options = ("-n", "6", "--draws", "2", "--importance", "magnitude", "-o", "out")
    found = deadhead("similarity", MODEL, *two_files, *options)
    assert found.code == 0, found.err
    figures = {p.name for p in (tmp_path / "out" / "figures").iterdir()}
    names = ("agreement", "dendrograms", "removed_share", "similarity")
    assert figures == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg ") == 4
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"<script|https?://", page)
    for words in ("asked 50.0%, actual 50.0%", "adjusted Rand", "by magnitude", "one, two"):
        assert words.lower() in page.lower()


@pytest.mark.slow
@pytest.mark.parametrize("grouping", ["global", "random"])
def test_every_grouping_has_a_page(deadhead, tmp_path, grouping):
    options = ("--grouping", grouping, "-n", "4", "--draws", "1", "-o", "out")
    assert deadhead("similarity", MODEL, *options).code == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert ("drawn at random" in page) is (grouping == "random")
    assert "there was one draw of one prompt set" in page
