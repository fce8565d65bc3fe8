"""Bad input gives one clear line, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from command import DATA, MODEL, SMALL

from deadhead import Head, HeadModel, HeadScores, PruningPlan, load_model, save_model
from models import make

GOOD = ("prune", MODEL, *SMALL, "-o", "out")


def with_option(*options: str) -> tuple[str, ...]:
    return (*GOOD, *options)


UNKNOWN = [
    (("prune", "bundled:encodr", *SMALL), "bundled model 'bundled:encodr'.*'bundled:encoder'"),
    (("prune", "./no/model", *SMALL), "model './no/model' is not there; give a folder"),
    (with_option("-c", "tayler"), "criterion 'tayler' is not known; did you mean 'taylor'"),
    (with_option("-c", ""), "criterion '' is not known; known: "),
    (with_option("-c", "taylor,magnitude"), "criterion 'taylor,magnitude' is not known"),
    (with_option("-c", "taylor:x=1"), "criterion 'taylor' has no options, got 'x=1'"),
    (with_option("-c", "gradient_norm:reductoin=batch"), "did you mean 'reduction'"),
    (
        with_option("-c", "gradient_norm:reduction=btch"),
        "reduction 'btch' is not known; did you mean 'batch'",
    ),
    (with_option("-s", "gredy"), "strategy 'gredy' is not known; did you mean 'greedy'"),
    (with_option("--loss", "tsk"), "loss 'tsk' is not known; did you mean 'task'"),
    (with_option("-t", "bundled:sentimnt"), "'sentimnt' is not known; did you mean 'sentiment'"),
    (with_option("-t", "no-such-data.tsv"), "no file or folder 'no-such-data.tsv'; check"),
    (with_option("--text-column", "sentense"), "column 'sentense'.*did you mean 'sentence'"),
    (with_option("--label-column", "lable"), "column 'lable'.*did you mean 'label'"),
    (with_option("--kind", "clasification"), "kind 'clasification'.*'classification'"),
    (with_option("--gqa", "whole_group"), "gqa policy 'whole_group'.*'whole_groups'"),
    (with_option("--scope", "globl"), "scope 'globl' is not known; did you mean 'global'"),
    (with_option("--dtype", "flot32"), "dtype 'flot32' is not known; did you mean 'float32'"),
    (with_option("--device", "cudaa"), "device 'cudaa' is not available here; use cpu"),
    (with_option("--device", "meta"), "device 'meta' is not available here; use cpu"),
    (with_option("--device", "cuda:99"), "device 'cuda:99' is not available here; use cpu"),
    (("score", MODEL, *DATA, "-c", "taylor,"), "criterion '' is not known"),
    (("score", MODEL, *DATA, "-c", "taylor", "--loss", "tsk"), "did you mean 'task'"),
    (("plan", MODEL, *DATA, "-s", "gredy"), "did you mean 'greedy'"),
]

WRONG_NUMBERS = [
    *(
        (with_option("--heads", h), f"{h!r} is not an amount of heads: write 1% to")
        for h in ("0", "-3", "0%", "101%")
    ),
    *(
        (with_option("--heads", h), f"{h!r} is not an amount of heads: write 1% to")
        for h in ("nan", "inf", "1.5")
    ),
    *((with_option("--heads", h), f"{h!r} is not an amount of heads") for h in ("abc", "", "5 %x")),
    (with_option("--heads", "1000"), "1000 heads were asked for, but the model has 24"),
    (with_option("--heads", "5", "--scope", "per_block"), "ask for 4 or 8, or change the rules"),
    (with_option("--keep-at-least", "6"), "4 of 24 heads cannot .*no head can be removed: change"),
    (with_option("--keep-at-least", "-1"), "keep_at_least is -1; give 0 or more"),
    (with_option("--per-step", "0"), "'0' is not an amount of heads: write 1% to"),
    (with_option("--per-step", "1000"), "1000 heads were asked for, but the model has 24"),
    (with_option("--max-drop", "nan"), "max_drop is nan; give 0 or more"),
    (with_option("--seed", "-1"), "seed -1 cannot be used; give 0 or more"),
    (with_option("--patience", "0"), "patience is 0; give 1 or more"),
    (with_option("--evaluate-every", "0"), "evaluate_every is 0; give 1 or more"),
    (with_option("--random", "-1"), "-1 random draws; give 0"),
    (with_option("--calibration-size", "0"), "'0' is not a number of examples; write 1 or more"),
    (with_option("--test-size", "some"), "'some' is not a number of examples"),
    (with_option("--batch-size", "0"), "batch_size 0 makes no batch; give 1 or more"),
    (with_option("--max-length", "1"), "max_length 1 leaves nothing to judge; give 2 or more"),
    (with_option("--max-length", "9999"), "max_length 9999 is more than the model's"),
]

MISSING = [
    (("prune", MODEL, "-o", "out"), "no data is named; give --task, or texts"),
    (("score", MODEL), "no data is named; give --task or --calibration"),
    (("plan", MODEL), "no data is named; give --task or --calibration"),
    (("evaluate", MODEL), "no data is named; give --task or --test"),
    (with_option("--resume"), "no interrupted run in '.*/out.partial'; start without --resume"),
]


@pytest.mark.parametrize(("args", "message"), [*UNKNOWN, *WRONG_NUMBERS, *MISSING])
@pytest.mark.slow
def test_bad_options_are_refused(deadhead, tmp_path, args, message):
    line = deadhead(*args).refused()
    assert re.search(message, line), line
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_nearly_right_is_named(deadhead, tmp_path, cut):
    shutil.copytree(cut, tmp_path / "my-model")
    line = deadhead("prune", "my-modle", *SMALL).refused()
    assert "model 'my-modle' is not there; did you mean 'my-model'?" in line
    (tmp_path / "file").touch()
    assert "is a file; give the folder" in deadhead("prune", "file", *SMALL).refused()


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


ROWS = "".join(json.dumps({"text": f"fine film {i}", "label": i % 2}) + "\n" for i in range(20))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "'a.jsonl' has no rows; give a file with at least one"),
        ("a.csv", "text,label\n", "'a.csv' has no rows"),
        ("a.json", "{{", "'a.json' is not JSON .*line 1"),
        ("a.jsonl", '{"text": "x"}\nnot json\n', "line 2 of 'a.jsonl' is not JSON"),
        ("a.parquet", "hello", "'a.parquet' is no whole Parquet file"),
        ("a.csv", 'text,label\n"a,1\n', "'a.csv' .* quotes do not match"),
        ("a.tsv", "text\tlabel\na\t1\nb\n", "record 3 has 1 fields, record 1 has 2"),
        ("a.tsv", "text\tlabel\na\t1\n\t0\nb\t1\n", "row 1 of .*a.tsv' .* which is blank"),
        ("a.xlsx", "x", "its ending is none of"),
        ("a.jsonl", ROWS.replace("1}", '"banana [/red]"}'), r"label 'banana \[/red\]' is not"),
        ("a.jsonl", ROWS.replace("1}", "7}"), "label 7 is not known to the model"),
        (
            "a.jsonl",
            ROWS.replace("1}", "null}"),
            "row 1 of .* which is missing; .*8 of 16",
        ),
    ],
)
def test_bad_data_is_refused(deadhead, tmp_path, name, content, message):
    file = write(tmp_path, name, content)
    line = deadhead("prune", MODEL, "-t", name, "-o", "out").refused()
    assert re.search(message, line), line
    assert list(tmp_path.iterdir()) == [file]


def test_overlap_is_refused_unless_allowed(deadhead, no_figures, tmp_path):
    write(tmp_path, "rows.jsonl", ROWS)
    sets = ("--calibration", "rows.jsonl", "--test", "rows.jsonl", "--heads", "2", "-o", "out")
    line = deadhead("prune", MODEL, *sets, "--no-speed").refused()
    assert "20 examples are in both calibration and test" in line
    assert "--allow-overlap" in line
    allowed = deadhead("prune", MODEL, *sets, "--no-speed", "--allow-overlap", "--json")
    assert allowed.code == 0, allowed.err
    assert "overlap allowed" in allowed.err


def test_max_drop_without_a_selection_set_is_refused(deadhead, tmp_path):
    file = write(tmp_path, "rows.jsonl", ROWS)
    line = deadhead("prune", MODEL, "-t", "rows.jsonl", "--max-drop", ".1", "-o", "out").refused()
    assert "max_drop stops on a selection set, and there is none; give one with --selection" in line
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_numbers_that_are_not_finite_are_named(deadhead, tmp_path):
    loaded = load_model(MODEL)
    with torch.no_grad():
        view = HeadModel(loaded.model)
        view.head_weights(Head(2, 3))["value"].fill_(torch.nan)
    save_model(loaded.model, loaded.tokenizer, tmp_path / "nan")
    line = deadhead("prune", "nan", *SMALL, "-o", "out").refused()  # judged before it is scored
    assert re.search("logits of batch 0 .* not finite.*'deadhead score --diagnose'", line)
    line = deadhead("score", "nan", *DATA).refused()
    where = "block 2: head outputs are not finite (head 2.3)"
    assert f"the loss of batch 0 is not finite: {where}; look with 'deadhead score" in line
    line = deadhead("score", "nan", *DATA, "-c", "magnitude").refused()
    assert "magnitude of head 2.3 is nan: its weights are not finite" in line
    assert [p.name for p in tmp_path.iterdir()] == ["nan"]
    found = deadhead("score", "nan", *DATA, "--diagnose", "--json").json
    assert found["not_finite"][0] == f"batch 0, {where}"
    assert "not finite" in found["advice"][0]


def test_a_full_output_folder_is_refused(deadhead, tmp_path):
    (tmp_path / "out").mkdir()
    kept = write(tmp_path / "out", "mine.txt", "precious")
    write(tmp_path, "plan.json", "{}")
    assert "output folder 'out' is not empty; choose another" in deadhead(*GOOD).refused()
    plan = PruningPlan(HeadModel(load_model(MODEL).model).mask)
    write(tmp_path, "plan.json", json.dumps(plan.to_json()))
    assert "is not empty" in deadhead("apply", MODEL, "-o", "out").refused()
    assert kept.read_text() == "precious"


def test_folders_that_cannot_be_written_are_refused(deadhead, tmp_path):
    write(tmp_path, "file", "")
    line = deadhead("prune", MODEL, *SMALL, "-o", "file/out").refused()
    assert f"cannot write '{tmp_path / 'file'}'" in line
    for args in (
        ("plan", MODEL, *DATA, "--heads", "3", "-o", "file/plan.json"),
        ("score", MODEL, "-c", "magnitude", "-o", "file/scores.json"),
    ):
        assert "make room, change its rights" in deadhead(*args).refused()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def llama(tmp_path) -> Path:
    """A model with shared key/value heads, and the bundled decoder's tokenizer."""
    tokenizer = load_model("bundled:decoder").tokenizer
    model = make("llama", "causal_lm", dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    save_model(model, tokenizer, tmp_path / "llama")
    return tmp_path / "llama"


def test_half_a_group_cannot_be_cut(deadhead, tmp_path, llama):
    mask = HeadModel(load_model(str(llama)).model).mask.drop(Head(1, 2))
    write(tmp_path, "plan.json", json.dumps(PruningPlan(mask).to_json()))
    line = deadhead("apply", "llama", "-o", "out").refused()
    assert "cannot remove head 1.2: it shares key/value head 0 with head 1.0, which is kept" in line
    assert 'keep both, remove both, or choose gqa="ungroup"' in line
    data = ("-t", "bundled:agreement", "--calibration-size", "8", "--heads", "4", "-o", "out")
    line = deadhead("prune", "llama", *data, "--no-speed").refused()
    assert "4 of 18 heads cannot be removed with scope='global', gqa='whole_groups'" in line
    assert "ask for 3 or 6" in line
    assert {p.name for p in tmp_path.iterdir()} == {"llama", "plan.json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "'plan.json' is not JSON .*; it should hold a plan"),
        ("[1]", "'plan.json' is not a JSON object; it should hold a plan"),
        ("{}", r"not a pruning plan \(KeyError\('mask'\)\); make one with 'deadhead plan'"),
        ('{"mask": 3}', "3 is not a mask"),
        ('{"mask": [["x"]]}', "is not a mask .*give a row of 0 and 1 per block"),
        ('{"mask": [[1]], "provenance": 3}', "not a pruning plan"),
        ('{"mask": [[1]], "copies": {"a": "b"}}', "'a' is not a head; write block.index"),
        ('{"mask": [[1, 1], [1]]}', r"the mask is for blocks of \[2, 1\] heads, the model has"),
    ],
)
@pytest.mark.slow
def test_what_is_not_a_plan_is_refused(deadhead, tmp_path, content, message):
    write(tmp_path, "plan.json", content)
    for args in (("apply", MODEL, "-o", "out"), ("evaluate", MODEL, *DATA[:2], "-p", "plan.json")):
        line = deadhead(*args).refused()
        assert re.search(message, line), line
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    assert "'no.json' is not there" in deadhead("apply", MODEL, "-p", "no.json").refused()


def test_a_plan_that_brings_heads_back_is_refused(deadhead, tmp_path, cut):
    mask = HeadModel(load_model(MODEL).model).mask
    write(tmp_path, "plan.json", json.dumps(PruningPlan(mask).to_json()))
    line = deadhead("apply", cut, "-o", "out").refused()
    assert "the plan keeps head 0.1, which has been removed from this model" in line


def test_scores_of_something_else_are_refused(deadhead, tmp_path):
    def plan(*options):
        given = ("--scores", "s.json", "--heads", "3")
        return deadhead("plan", MODEL, *given, *(options or ("-c", "gradient_norm"))).refused()

    scores = HeadScores(tuple([0.0] * 6 for _ in range(4)), "taylor").to_json()
    write(tmp_path, "s.json", json.dumps(scores))
    assert "no scores of 'gradient_norm'; it holds taylor; name one with --criterion" in plan()
    assert "cannot use 's.json'; choose one_shot" in plan("-c", "taylor", "-s", "greedy")
    decoder = deadhead("plan", "bundled:decoder", "--scores", "s.json", "-c", "taylor").refused()
    assert "blocks with [6, 6, 6, 6] heads, the model has [4, 4, 4, 4]; score this" in decoder
    odd = ({"values": 3, "criterion": "taylor"}, {**scores, "provenance": 3})
    for wrong in ({"a": 1}, {"values": [["x"]]}, {"a": {}}, *odd):
        write(tmp_path, "s.json", json.dumps(wrong))
        assert "'s.json' does not hold scores" in plan("-c", "taylor")
    write(tmp_path, "s.json", "[]")
    assert "'s.json' is not a JSON object; it should hold scores" in plan()
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]
