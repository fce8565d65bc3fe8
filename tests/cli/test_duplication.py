"""Duplication pruning from the command line: clusters, actions, old logs, lm-eval, sweeps."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from deadhead import Head, HeadModel, PruningPlan, bundled, load_model, remove_, save_model
from deadhead.runs.settings import ModelSettings
from models import make

MODEL = "bundled:decoder"
DATA = ("-t", "bundled:agreement", "--calibration-size", "12")
JUDGE = ("-t", "bundled:agreement", "--test-size", "24")
CLUSTERS = ("--strategy", "clusters", "--heads", "50%")
TASK = """
task: local_pairs
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: ""
target_delimiter: ""
doc_to_target: 0
doc_to_choice: "{{[good, bad]}}"
metric_list: [{metric: acc}]
"""


@pytest.fixture
def prompts(tmp_path):
    """The predecessor's format: prompt TAB id, no header."""
    texts = bundled.text("calibration", 12)
    (tmp_path / "prompts.tsv").write_text("".join(f"{t}\t{i}\n" for i, t in enumerate(texts)))
    return "prompts.tsv"


@pytest.fixture
def plan(deadhead, prompts, tmp_path):
    assert deadhead("plan", MODEL, *CLUSTERS, "--prompts", prompts, "--action", "fold").code == 0
    return PruningPlan.from_json(json.loads((tmp_path / "plan.json").read_text()))


def test_a_plan_by_clusters_says_whose_copy_each_head_is_and_where_that_comes_from(plan):
    assert plan.action == "fold"
    assert len(plan.copies) == len(plan.mask.dropped) == 8
    assert plan.provenance["clustering"]["grouping"] == "balanced"
    assert plan.provenance["data"]["prompts"]["size"] == 12
    assert "(as " in plan.describe()


@pytest.mark.parametrize(
    "action",
    ["fold", "duplicate", *(pytest.param(a, marks=pytest.mark.slow) for a in ("mask", "remove"))],
)
@pytest.mark.slow
def test_one_plan_is_applied_by_any_action_and_loads_plainly(deadhead, plan, action, tmp_path):
    found = deadhead("apply", MODEL, "-p", "plan.json", "--action", action, "-o", action, "--json")
    assert found.code == 0, found.err
    smaller = action in ("fold", "remove")
    facts = found.json
    assert (facts["parameters_after"] < facts["parameters_before"]) == smaller
    model = AutoModelForCausalLM.from_pretrained(tmp_path / action)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters_after"]
    assert hasattr(model.config, "quantization_config") == smaller
    judged = deadhead("evaluate", action, *JUDGE, "--json").json["value"]
    virtual = deadhead("evaluate", MODEL, *JUDGE, "-p", "plan.json", "--action", action, "--json")
    assert virtual.json["value"] == pytest.approx(judged)


def test_several_plans_are_judged_on_one_loaded_model(deadhead, plan, monkeypatch, tmp_path):
    loads, load = [], ModelSettings.load
    monkeypatch.setattr(ModelSettings, "load", lambda self: loads.append(self) or load(self))
    (tmp_path / "log.txt").write_text("layer, kept, removed\n0, 1, 2\n3, 0, 1\n")
    found = deadhead("evaluate", MODEL, *JUDGE, "-p", "plan.json", "-p", "log.txt", "--json").json
    assert len(loads) == 1
    assert [row["plan"]["heads_dropped"] for row in found["results"]] == [8, 2]
    assert [row["plan"]["action"] for row in found["results"]] == ["fold", "duplicate"]
    assert found["results"][0]["value"] != found["results"][1]["value"]


def test_an_old_log_replays(deadhead, tmp_path):
    (tmp_path / "log.txt").write_text("0, 1, 0, 2\n1, 3, 2, 0\n")
    found = deadhead("apply", MODEL, "-p", "log.txt", "-o", "replayed", "--json")
    assert found.json["plan"]["copies"] == {"0.2": "0.1", "2.0": "1.3"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "replayed")
    layers = model.model.decoder.layers
    size = layers[0].self_attn.head_dim
    rows = [
        layers[b].self_attn.v_proj.weight[h * size : (h + 1) * size] for b, h in ((1, 3), (2, 0))
    ]
    assert torch.equal(*rows)


@pytest.fixture(scope="module")
def shortened(tmp_path_factory):
    """The bundled decoder after heads 0.3 and 3.0 were cut."""
    loaded = load_model(MODEL)
    mask = HeadModel(loaded.model).mask.drop(Head(0, 3), Head(3, 0))
    remove_(loaded.model, PruningPlan(mask))
    folder = tmp_path_factory.mktemp("models") / "shortened"
    save_model(loaded.model, loaded.tokenizer, folder)
    return folder


@pytest.mark.parametrize("action", ["fold", "remove", "mask", "duplicate"])
@pytest.mark.slow
def test_a_log_replays_on_a_model_that_was_cut_before(deadhead, shortened, tmp_path, action):
    (tmp_path / "log.txt").write_text("0, 1, 2\n1, 0, 3\n")
    replayed = ("-p", "log.txt", "--action", action)
    found = deadhead("apply", shortened, *replayed, "-o", "out", "--json")
    assert found.code == 0, found.err
    mask = HeadModel(load_model(str(tmp_path / "out")).model).mask
    gone = ["0.3", "3.0"] + (["0.2", "1.3"] if action in ("fold", "remove") else [])
    assert sorted(map(str, mask.dropped)) == sorted(gone)
    virtual = deadhead("evaluate", shortened, *JUDGE, *replayed, "--json").json
    direct = deadhead("evaluate", "out", *JUDGE, "--json").json
    assert virtual["value"] == pytest.approx(direct["value"])
    assert virtual["plan"]["heads_dropped"] == 2


@pytest.mark.parametrize("action", ["fold", "remove", "mask", "duplicate"])
def test_a_log_that_keeps_a_head_which_is_gone_is_refused(deadhead, shortened, tmp_path, action):
    (tmp_path / "log.txt").write_text("1, 0, 3\n0, 3, 2\n")
    for command in (("apply", shortened, "-o", "out"), ("evaluate", shortened, *JUDGE)):
        line = deadhead(*command, "-p", "log.txt", "--action", action).refused()
        assert "'log.txt' keeps head 0.3 in the place of 0.2, and this model has lost 0.3" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["log", "run1.dat", "log.md"])
def test_a_log_without_a_known_ending_says_which_are_known(deadhead, tmp_path, name):
    (tmp_path / name).write_text("0, 1, 2\n")
    line = deadhead("apply", MODEL, "-p", name, "-o", "out").refused()
    assert f"'{name}' is not JSON" in line
    assert "pruning logs end in .txt, .log, .csv, .tsv" in line


@pytest.fixture(scope="module")
def shared_keys(tmp_path_factory):
    """A random model with 3 query heads to each of 2 key/value heads."""
    tokenizer = load_model(MODEL).tokenizer
    model = make("llama", "causal_lm", dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    folder = tmp_path_factory.mktemp("models") / "llama"
    save_model(model, tokenizer, folder)
    return folder


def test_a_log_of_single_heads_folds_where_keys_are_shared(deadhead, shared_keys, tmp_path):
    (tmp_path / "log.txt").write_text("0, 0, 2\n")
    folded = ("-p", "log.txt", "--action", "fold")
    found = deadhead("apply", shared_keys, *folded, "-o", "out", "--json")
    assert found.code == 0, found.err
    assert found.json["plan"]["gqa"] == "ungroup"
    line = deadhead("apply", shared_keys, *folded, "--gqa", "whole_groups", "-o", "no").refused()
    assert "cannot remove head 0.2: it shares key/value head 0" in line
    line = deadhead("evaluate", shared_keys, *JUDGE, *folded, "--gqa", "equalize").refused()
    assert "the key/value groups of block 0 would keep 2, 3 query heads" in line
    line = deadhead("apply", shared_keys, *folded, "--gqa", "ungruop", "-o", "no").refused()
    assert "gqa 'ungruop' is not known; did you mean 'ungroup'" in line


@pytest.mark.slow
def test_a_policy_can_replace_that_of_a_plan(deadhead, shared_keys, tmp_path):
    mask = HeadModel(load_model(str(shared_keys)).model).mask.drop(Head(1, 2))
    (tmp_path / "plan.json").write_text(json.dumps(PruningPlan(mask).to_json()))
    assert "shares key/value head" in deadhead("apply", shared_keys, "-o", "out").refused()
    found = deadhead("apply", shared_keys, "--gqa", "ungroup", "-o", "out", "--json")
    assert found.json["plan"]["gqa"] == "ungroup", found.err


@pytest.mark.slow
def test_prune_by_clusters_does_the_whole_job(deadhead, prompts, tmp_path):
    options = ("--action", "fold", "--prompts", prompts, "--test-size", "24", "--no-speed")
    found = deadhead("prune", MODEL, *DATA, *CLUSTERS, *options, "-o", "run")
    assert found.code == 0, found.err
    assert "8 of 16 heads folded into kept ones (50%)" in found.out
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["scores"] is None
    assert not (tmp_path / "run" / "scores.json").exists()
    assert run["run"]["data"]["prompts"]["size"] == 12
    judged = deadhead("evaluate", "run/model", *JUDGE, "--json").json
    assert judged["value"] == pytest.approx(run["evaluation"]["pruned"]["accuracy"])
    assert "folded into kept ones" in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_lm_eval_judges_the_model_as_a_plan_leaves_it(deadhead, plan, monkeypatch, tmp_path):
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    rows = bundled.minimal_pairs("test", 12)
    lines = [json.dumps({"good": r["sentence_good"], "bad": r["sentence_bad"]}) for r in rows]
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "task.yaml").write_text(TASK.replace("ROWS", str(folder / "rows.jsonl")))
    options = ("--lm-eval", "local_pairs", "--include-path", "tasks", "--json")
    dense = deadhead("evaluate", MODEL, *options, "--lm-eval-output", "dense.json")
    assert dense.code == 0, dense.err
    written = json.loads((tmp_path / "dense.json").read_text())
    assert (
        written["results"]["local_pairs"]["acc,none"]
        == dense.json["lm_eval_primary"]["local_pairs"][1]
    )
    text = deadhead("evaluate", MODEL, *options[:-1], "-p", "plan.json").out
    assert "with 8 heads removed (fold), lm-eval" in text


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("plan", ("--grouping", "ballanced"), "did you mean 'balanced'"),
        ("plan", ("--distance", "l2"), "known: cosine, euclidean"),
        ("plan", ("--heads", "15"), "keeps a representative"),
        ("plan", ("--inverse",), "means nothing to strategy 'clusters'"),
        ("plan", ("--prompts", "nothing.tsv"), "nothing.tsv"),
        ("plan", ("--prompts", "long.txt", "--strict"), "longer than 64 tokens"),
        ("plan", ("--prompts", "prompts.tsv", "--grouping", "importance_budget", "--importance",
                  "evil.pkl"), "wants to"),
    ],
)  # fmt: skip
def test_bad_clusters_are_one_line(deadhead, prompts, tmp_path, command, options, words):
    (tmp_path / "long.txt").write_text("the cat sees the dog . " * 200 + "\n")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    before = {p.name for p in tmp_path.iterdir()}
    given = () if "--prompts" in options else ("--prompts", prompts)
    line = deadhead(command, MODEL, *CLUSTERS, *given, *options).refused()
    assert words in line
    assert {p.name for p in tmp_path.iterdir()} == before


class Evil:
    """A pickle that would write a file."""

    def __reduce__(self):
        return (np.save, ("bait.npy", np.zeros(2)))


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (None, "is not there"),
        ("", "an empty log never means the unpruned model"),
        ("0, 1, 9\n", "names head 0.9, the model has 4 blocks of 4 heads"),
        ("39, 1, 12\n", "another model"),
        ("0, 1\n", "columns"),
    ],
)
@pytest.mark.parametrize("command", ["apply", "evaluate"])
def test_a_bad_log_never_means_the_unpruned_model(deadhead, tmp_path, command, log, words):
    if log is not None:
        (tmp_path / "log.txt").write_text(log)
    options = ("-o", "out") if command == "apply" else JUDGE
    line = deadhead(command, MODEL, "-p", "log.txt", *options).refused()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_a_fold_that_is_not_exact_names_what_is(deadhead, prompts, tmp_path):
    plan = ("plan", MODEL, *CLUSTERS, "--prompts", prompts, "--grouping", "global")
    assert deadhead(*plan, "--action", "fold").code == 0
    line = deadhead("apply", MODEL, "-p", "plan.json", "-o", "out").refused()
    assert "different blocks" in line
    assert "duplicate (exact, not smaller)" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_sweep_compares_on_one_table(deadhead, prompts, tmp_path):
    options = ("--prompts", prompts, "--heads", "25%,50%", "--grouping", "balanced,random")
    rest = ("-c", "taylor", "--random", "2", "--test-size", "24", "--no-speed", "-o", "out")
    found = deadhead("sweep", MODEL, *DATA, *options, *rest, "--json")
    assert found.code == 0, found.err
    lines = found.json["lines"]
    assert len(lines) == 1 + 2 * (3 + 1 + 1 + 1)
    assert {line["method"] for line in lines} == {
        "dense", "cosine balanced", "taylor", "random heads", "random groups"
    }  # fmt: skip
    assert {"report.html", "sweep.csv", "sweep.json", "figures"} == {
        p.name for p in (tmp_path / "out").iterdir()
    }
    assert deadhead("sweep", MODEL, *DATA, *options, *rest).refused()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--heads", "3"), "give a share of them, as 25%"),
        (("--action", "dup"), "did you mean 'duplicate'"),
        (("-c", "tailor"), "did you mean 'taylor'"),
        (("--prompts", "nothing.tsv"), "nothing.tsv"),
    ],
)
def test_bad_sweeps_are_one_line_and_leave_nothing(deadhead, tmp_path, options, words):
    assert words in deadhead("sweep", MODEL, *DATA, *options, "-o", "out").refused()
    assert list(tmp_path.iterdir()) == []
