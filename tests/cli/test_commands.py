"""What the commands print and write when all is well."""

from __future__ import annotations

import ast
import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from command import DATA, MODEL, SMALL

from deadhead import HeadModel, PruningPlan, cli, load_model
from deadhead.cli import console

RUNS = {
    "prune": ("prune", MODEL, *SMALL, "-o", "out", "--no-save"),
    "score": ("score", MODEL, *DATA, "-o", "scores.json"),
    "diagnose": ("score", MODEL, *DATA, "--diagnose"),
    "plan": ("plan", MODEL, *DATA, "--heads", "3"),
    "apply": ("apply", MODEL, "-o", "cut"),
    "evaluate": ("evaluate", MODEL, *DATA[:2], "--test-size", "16"),
    "list": ("list",),
}


@pytest.fixture
def planned(deadhead, no_figures):
    """A folder with a plan.json that drops 3 heads."""
    assert deadhead(*RUNS["plan"]).code == 0
    return deadhead


@pytest.mark.parametrize("command", RUNS)
def test_json_is_one_object_on_stdout_and_nothing_else(planned, command):
    found = planned(*RUNS[command], "--json")
    assert found.code == 0, found.err
    assert isinstance(found.json, dict)
    assert "error" not in found.err


@pytest.mark.parametrize("command", RUNS)
def test_tables_are_for_people(planned, command):
    found = planned(*RUNS[command])
    assert found.code == 0, found.err
    assert len(found.out.splitlines()) >= 2
    assert "Traceback" not in found.err


@pytest.mark.parametrize("flag", [(), ("--json",)])
def test_no_bar_off_a_terminal(planned, flag):
    for command in ("prune", "score", "plan"):
        args = [a.replace("out", f"out{len(flag)}") for a in RUNS[command]]
        found = planned(*args, *flag)
        assert not set("━╸╺⠋⠙⠹\x1b\r") & set(found.out + found.err)
        assert "left" not in found.err


@pytest.mark.parametrize(("flag", "shown"), [((), True), (("--json",), False)])
def test_a_bar_on_a_terminal_but_not_beside_json(deadhead, monkeypatch, flag, shown):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(type(console.ERR), "is_terminal", property(lambda self: True))
    found = deadhead(*RUNS["score"], *flag)
    assert ("\x1b[?25l" in found.err) is shown  # the cursor is hidden while a bar is there
    assert "\x1b[?25l" not in found.out


def test_plan_apply_and_evaluate_fit_together(deadhead, tmp_path):
    assert deadhead("score", MODEL, *DATA, "-c", "taylor", "-o", "scores.json").code == 0
    options = ("-c", "taylor", "--heads", "50%", "--scores", "scores.json")
    plan = PruningPlan.from_json(deadhead("plan", MODEL, *options, "--json").json)
    direct = PruningPlan.from_json(
        deadhead("plan", MODEL, *DATA, "-c", "taylor", "--heads", "12", "--json").json
    )
    assert plan.mask == direct.mask
    assert plan.provenance["criterion"] == "taylor"
    assert deadhead("apply", MODEL, "-o", "cut").code == 0
    assert HeadModel(load_model(str(tmp_path / "cut")).model).mask == plan.mask
    judge = (*DATA[:2], "--test-size", "32", "--json")
    masked = deadhead("evaluate", MODEL, "-p", "plan.json", *judge).json
    assert deadhead("evaluate", "cut", *judge).json["metrics"] == masked["metrics"]


def test_one_set_is_enough_for_who_looks_at_one(deadhead, tmp_path):
    rows = [json.dumps({"text": f"fine film {i}", "label": i % 2}) + "\n" for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    found = deadhead("score", MODEL, "--calibration", "rows.jsonl", "--json")
    assert found.json["gradient_norm"]["provenance"]["samples"] == 20
    assert deadhead("plan", MODEL, "--calibration", "rows.jsonl", "--heads", "3").code == 0
    for more in ((), ("-t", "bundled:sentiment")):
        found = deadhead("evaluate", MODEL, "--test", "rows.jsonl", *more, "--json").json
        assert found["data"]["size"] == 20
    split = deadhead("evaluate", MODEL, "-t", "rows.jsonl", "--json").json
    assert split["data"]["size"] == 4  # the last 20%


def test_criteria_share_one_backward_pass_per_batch(deadhead, monkeypatch):
    calls, grad = [], torch.autograd.grad

    def counted(*args, **options):
        calls.append(args)
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    criteria = "taylor,gradient_norm,attention_entropy,magnitude"
    found = deadhead("score", MODEL, *DATA, "--batch-size", "2", "-c", criteria, "--json")
    assert list(found.json) == criteria.split(",")
    assert found.json["taylor"]["provenance"]["loss"] == "task"
    assert found.json["gradient_norm"]["provenance"]["loss"] == "task"
    assert len(calls) == 4  # 8 examples, 2 to a batch


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_healthy_model_is_diagnosed_healthy(deadhead, dtype):
    found = deadhead("score", MODEL, *DATA, "--diagnose", "--dtype", dtype, "--json").json
    assert found["dtype"] == dtype
    assert found["not_finite"] == []
    assert found["samples"] == 8
    assert len(found["rows"]) == 12  # 4 blocks, 3 projections
    assert all(row["smallest"] > 0 for row in found["rows"])
    assert found["advice"][0].startswith("nothing is wrong")


def test_names_with_brackets_print_as_they_are(deadhead, tmp_path, cut):
    name = "a[bold]b[0:8]:smile:[i]"
    shutil.copytree(cut, tmp_path / name)
    found = deadhead("evaluate", name, *DATA[:2], "--test-size", "8")
    assert found.out.startswith(f"{name} on 8 examples")
    assert repr(f"{name}x") in deadhead("evaluate", f"{name}x", *DATA[:2]).refused()


def test_a_note_says_that_a_plan_was_made_for_another_model(planned, tmp_path, cut):
    plan = PruningPlan.from_json(json.loads((tmp_path / "plan.json").read_text()))
    mask = plan.mask & HeadModel(load_model(str(cut)).model).mask
    both = PruningPlan(mask, provenance=plan.provenance)
    (tmp_path / "plan.json").write_text(json.dumps(both.to_json()))
    found = planned("apply", cut, "-o", "out")
    assert f"note: the plan was made for '{MODEL}' and is applied to 'cut'" in found.err


def test_list_knows_everything(deadhead):
    found = deadhead("list", "--json").json
    assert {"taylor", "gradient_norm", "random"} <= set(found["criteria"])
    assert {"greedy", "one_shot"} <= set(found["strategies"])
    assert {"whole_groups", "equalise", "ungroup"} == set(found["gqa policies"])
    text = deadhead("list").out
    assert all(name in text for names in found.values() for name in names)


def test_ctrl_c_says_how_to_go_on_or_that_nothing_was_done(
    deadhead, no_figures, monkeypatch, tmp_path
):
    module = importlib.import_module("deadhead.runs.conduct")

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "load_model", stop)
        found = deadhead(*RUNS["prune"])
        assert found.code == 130
        assert "stopped before anything was done" in found.err
        assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(module, "remove_", stop)
        found = deadhead(*RUNS["prune"])
        assert found.code == 130
        assert "go on with the same command and --resume" in found.err
        assert [p.name for p in tmp_path.iterdir()] == [".out.partial"]
    assert deadhead(*RUNS["prune"], "--resume").code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_the_demo_does_the_whole_job(deadhead, tmp_path):
    found = deadhead("demo", "-o", "X", "--random", "1", "--json")
    assert found.code == 0, found.err
    assert found.json["random"]["values"]
    assert {p.name for p in (tmp_path / "X").iterdir()} == {
        *("plan.json", "scores.json", "trajectory.csv", "run.json", "report.html"),
        *("figures", "model"),
    }
    assert deadhead("evaluate", "X/model", "-t", "bundled:sentiment", "--json").code == 0


def test_importing_deadhead_leaves_slow_libraries_alone():
    slow = {"sklearn", "datasets", "scipy", "matplotlib", "jinja2", "pyarrow", "yaml"}
    for file in Path(cli.__file__).parents[1].rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & slow, f"{file}: import where used"
