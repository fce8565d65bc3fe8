"""What the commands print and write when all is well."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from command import DATA, MODEL, SMALL

from deadhead import Head, HeadMask, HeadModel, PruningPlan, bundled, cli, load_model
from deadhead.cli import console
from deadhead.runs.settings import ModelSettings

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
def planned(deadhead, no_figures, tmp_path):
    """A folder with a plan.json that drops 3 heads."""
    mask = HeadMask.full([6] * 4).drop(Head(0, 1), Head(0, 4), Head(2, 0))
    plan = PruningPlan(mask, provenance={"model": MODEL})
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    return deadhead


def test_the_version_is_told(deadhead):
    told = deadhead("--version")
    assert (told.code, told.out.strip()) == (0, version("deadhead"))


@pytest.mark.parametrize("command", RUNS)
def test_json_is_one_object_on_stdout_and_nothing_else(planned, command):
    found = planned(*RUNS[command], "--json")
    assert found.code == 0, found.err
    assert isinstance(found.json, dict)
    assert "error" not in found.err


@pytest.mark.parametrize("command", RUNS)
@pytest.mark.slow
def test_tables_are_for_people(planned, command):
    found = planned(*RUNS[command])
    assert found.code == 0, found.err
    assert len(found.out.splitlines()) >= 2
    assert "Traceback" not in found.err


@pytest.mark.parametrize("flag", [(), ("--json",)])
@pytest.mark.slow
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


@pytest.mark.slow
def test_plan_apply_and_evaluate_fit_together(deadhead, tmp_path):
    assert deadhead("score", MODEL, *DATA, "-c", "taylor", "-o", "scores.json").code == 0
    options = ("-c", "taylor", "--heads", "50%", "--scores", "scores.json")
    plan = PruningPlan.from_json(deadhead("plan", MODEL, *options, "--json").json)
    direct = PruningPlan.from_json(
        deadhead(
            "plan", MODEL, *DATA, "-c", "taylor", "-s", "one_shot", "--heads", "12", "--json"
        ).json
    )
    assert plan.mask == direct.mask
    assert plan.provenance["criterion"] == "taylor"
    assert deadhead("apply", MODEL, "-o", "cut").code == 0
    assert HeadModel(load_model(str(tmp_path / "cut")).model).mask == plan.mask
    judge = (*DATA[:2], "--test-size", "32", "--json")
    masked = deadhead("evaluate", MODEL, "-p", "plan.json", *judge).json
    assert deadhead("evaluate", "cut", *judge).json["metrics"] == masked["metrics"]


@pytest.mark.slow
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


def test_one_split_of_a_folder_is_enough_for_who_looks_at_one(deadhead, tmp_path):
    rows = "".join(f"fine film {i}\t{i % 2}\n" for i in range(12))
    for name in ("test", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.tsv").write_text("sentence\tlabel\n" + rows)
    found = deadhead("evaluate", MODEL, "-t", "test", "--json")
    assert found.json["data"]["size"] == 12
    assert deadhead("evaluate", MODEL, "-t", "test[2:8]", "--json").json["data"]["size"] == 6
    found = deadhead("score", MODEL, "-t", "train", "--json")
    assert found.json["gradient_norm"]["provenance"]["samples"] == 12
    assert "has no test set" in deadhead("evaluate", MODEL, "-t", "train").refused()
    shutil.copy(tmp_path / "test" / "test.tsv", tmp_path / "train")  # the same texts
    assert deadhead("score", MODEL, "-t", "train", "--json").code == 0


def test_scores_and_plans_say_what_made_them(deadhead, tmp_path):
    assert deadhead("score", MODEL, *DATA, "-c", "taylor", "--seed", "3", "-o", "s.json").code == 0
    made = json.loads((tmp_path / "s.json").read_text())["taylor"]["provenance"]
    assert made["model"] == MODEL
    assert made["command"].startswith("deadhead score bundled:encoder")
    assert "torch" in made["versions"]
    assert made["data"]["calibration"]["size"] == 8
    options = ("-c", "taylor", "--heads", "3", "--scores", "s.json")
    plan = deadhead("plan", MODEL, *options, "--json").json["provenance"]
    assert plan["scores"] == {"file": "s.json", **made}
    assert not {"seed", "loss"} & set(plan), "the plan's own made nothing"
    other = {"taylor": json.loads((tmp_path / "s.json").read_text())["taylor"]}
    other["taylor"]["provenance"]["model"] = "another"
    (tmp_path / "s.json").write_text(json.dumps(other))
    found = deadhead("plan", MODEL, *options)
    assert f"note: the scores were made for 'another', and the model is '{MODEL}'" in found.err


@pytest.mark.slow
def test_the_card_of_an_applied_plan_says_where_it_comes_from(deadhead, tmp_path):
    assert deadhead("score", MODEL, *DATA, "-c", "taylor", "--seed", "3", "-o", "s.json").code == 0
    direct = ("plan", MODEL, *DATA, "-c", "taylor", "-s", "one_shot", "--seed", "3", "--heads", "3")
    given = ("plan", MODEL, "-c", "taylor", "--scores", "s.json", "--heads", "3")
    for number, args in enumerate((direct, given)):
        assert deadhead(*args).code == 0
        found = deadhead("apply", MODEL, "-o", f"cut{number}")
        assert "AutoModelForSequenceClassification.from_pretrained" in found.out
        card = (tmp_path / f"cut{number}" / "README.md").read_text()
        assert "AutoModelForSequenceClassification.from_pretrained" in card
        assert "3 of 24 heads removed" in card
        for row in ("criterion | taylor", "strategy | one_shot", "seed | 3", "calibration | "):
            assert f"| {row}" in card, row
        assert "base_model" not in card


@pytest.mark.slow
def test_an_evaluation_under_a_plan_says_so(planned, cut):
    judge = (*DATA[:2], "--test-size", "8")
    found = planned("evaluate", MODEL, "-p", "plan.json", *judge, "--json").json
    assert found["plan"] == {"file": "plan.json", "action": "remove", "heads_dropped": 3}
    text = planned("evaluate", MODEL, "-p", "plan.json", *judge).out
    assert text.startswith(f"{MODEL} with 3 heads removed (remove) on 8 examples")
    assert planned("evaluate", MODEL, *judge, "--json").json["plan"] is None
    assert "gone" not in planned("evaluate", MODEL, *judge).out


@pytest.mark.slow
def test_a_diagnosis_is_of_the_loss_that_the_criterion_uses(deadhead):
    for criterion, options, loss in (
        ("taylor", (), "task"),
        ("gradient_norm", (), "logit_norm"),
        ("magnitude,gradient_norm", (), "logit_norm"),
        ("taylor", ("--loss", "logit_norm"), "logit_norm"),
    ):
        found = deadhead("score", MODEL, *DATA, "--diagnose", "-c", criterion, *options, "--json")
        assert found.json["loss"] == loss


@pytest.mark.parametrize(
    ("args", "passes"),
    [
        (("score", "--diagnose"), 4),
        (("plan", "--heads", "3"), 4),
        (("plan", "--heads", "3", "-c", "taylor", "-s", "one_shot"), 4),
        (("plan", "--heads", "3", "-c", "taylor", "-s", "greedy"), 12),
    ],
)
def test_work_in_batches_has_a_bar_that_fills(deadhead, monkeypatch, args, passes):
    bars = []

    @contextmanager
    def bar(what, total, *, hidden=False):
        bars.append([total, 0])

        def advance(step=1):
            bars[-1][1] += step

        yield advance

    for module in ("plan", "score"):
        monkeypatch.setattr(importlib.import_module(f"deadhead.cli.{module}"), "progress_bar", bar)
    assert deadhead(args[0], MODEL, *DATA, "--batch-size", "2", *args[1:]).code == 0
    assert bars == [[passes, passes]]


def test_the_demo_can_be_told_where_to_run(deadhead, tmp_path):
    assert "device 'cuda:99' is not available" in deadhead("demo", "--device", "cuda:99").refused()
    assert "did you mean 'float32'" in deadhead("demo", "--dtype", "flot32").refused()
    assert list(tmp_path.iterdir()) == []


def test_a_run_can_fill_the_empty_folder_where_one_is(deadhead, no_figures, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = deadhead("prune", MODEL, *SMALL, "-o", ".")
    assert found.code == 0, found.err
    assert (tmp_path / "here" / "model" / "config.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


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
    assert f"note: the plan was made for '{MODEL}', and the model is 'cut'" in found.err


@pytest.mark.parametrize("command", ["evaluate", "sweep"])
def test_help_names_the_extra_that_lm_eval_needs(deadhead, command):
    assert "deadhead[eval]" in deadhead(command, "--help").out


def test_list_knows_everything(deadhead):
    found = deadhead("list", "--json").json
    assert {"taylor", "gradient_norm", "random"} <= set(found["criteria"])
    assert {"greedy", "one_shot"} <= set(found["strategies"])
    assert {"whole_groups", "equalize", "ungroup"} == set(found["gqa policies"])
    text = deadhead("list").out
    assert all(name in text for names in found.values() for name in names)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_or_that_nothing_was_done(
    deadhead, no_figures, monkeypatch, tmp_path
):
    module = importlib.import_module("deadhead.runs.prune")

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ModelSettings, "load", stop)
        found = deadhead(*RUNS["prune"])
        assert found.code == 130
        assert "stopped before anything was done" in found.err
        assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(module, "explained", stop)
        found = deadhead(*RUNS["prune"])
        assert found.code == 130
        assert "what is done is in" in found.err
        assert [p.name for p in tmp_path.iterdir()] == ["out.partial"]
    assert deadhead(*RUNS["prune"], "--resume").code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["score", "plan", "apply"])
def test_ctrl_c_says_so_in_every_command(planned, monkeypatch, tmp_path, name):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelSettings, "load", stop)
    found = planned(*RUNS[name])
    assert (found.code, found.out) == (130, "")
    assert found.err == "stopped; no file is left half written\n"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


STARTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["deadhead", "list"]
from {module} import {function} as entry
entry()
"""


def hears_ctrl_c():
    """Undo in a child what a shell does to jobs in the background: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    "name", ["torch", pytest.param("deadhead.cli.score", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_ctrl_c_during_start_up_says_so(name):
    root = Path(__file__).parents[2]
    entry = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["deadhead"]
    module, function = entry.split(":")
    code = STARTED.format(name=name, module=module, function=function)
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=hears_ctrl_c,
    )
    assert found.returncode == 130
    assert (found.stdout, found.stderr) == ("", "stopped before anything was done\n")


@pytest.mark.slow
def test_an_ascii_terminal_gets_everything(tmp_path):
    """Arrows and names in other letters: shown as they can be, written and read whole."""
    rows = [json.dumps({"text": f"süß {i}", "label": i % 2}, ensure_ascii=False) for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    command = ("prune", MODEL, "-t", "rows.jsonl", *SMALL[4:], "-o", "out")
    found = subprocess.run(
        [sys.executable, "-m", "deadhead", *command],
        cwd=tmp_path,
        capture_output=True,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert found.returncode == 0, found.stderr
    assert b"4 of 24 heads removed" in found.stdout
    assert (found.stdout + found.stderr).isascii()
    card = (tmp_path / "out" / "model" / "README.md").read_text(encoding="utf-8")
    assert "→" in card
    assert "utf-8" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8").lower()


def test_every_text_file_is_written_and_read_as_utf_8():
    for file in Path(cli.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "attr", None)
            if name in ("read_text", "write_text"):
                assert "encoding" in [k.arg for k in node.keywords], f"{file}:{node.lineno}"


@pytest.mark.slow
def test_the_demo_does_the_whole_job(deadhead, tmp_path):
    found = deadhead("demo", "-o", "X", "--random", "1", "--json")
    assert found.code == 0, found.err
    assert "random heads" in found.json["lesson"]
    assert {p.name for p in (tmp_path / "X").iterdir()} == {"run", "comparison"}
    assert {p.name for p in (tmp_path / "X" / "run").iterdir()} == {
        *("plan.json", "scores.json", "trajectory.csv", "run.json", "report.html"),
        *("figures", "model"),
    }
    judge = ("-t", "bundled:sentiment", "--json")
    judged = deadhead("evaluate", "X/run/model", *judge).json
    run = found.json["run"]
    assert judged["value"] == run["evaluation"]["pruned"]["accuracy"]
    assert all(Path(file).exists() for file in run["files"].values())
    assert "is not empty" in deadhead("demo", "-o", "X").refused()
    assert "is complete" in deadhead("demo", "-o", "X", "--resume").refused()


def test_importing_deadhead_leaves_slow_libraries_alone():
    slow = {"sklearn", "datasets", "scipy", "matplotlib", "jinja2", "pyarrow", "yaml"}
    for file in Path(cli.__file__).parents[1].rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & slow, f"{file}: import where used"


@pytest.mark.parametrize("options", [(), ("--repair", "none", "-c", "gradient_norm")])
@pytest.mark.slow
def test_texts_alone_are_enough_to_prune(deadhead, no_figures, tmp_path, options):
    rows = [row["sentence"] for row in bundled.sentiment("train", 60)]
    (tmp_path / "texts.txt").write_text("\n".join(rows))
    short = ("--calibration", "texts.txt", "--heads", "4", "--per-step", "2", "--no-speed")
    found = deadhead("prune", MODEL, *short, *options, "-o", "out")
    assert found.code == 0, found.err
    assert "divergence from the dense model's predictions on 12 held-out texts" in found.out
    assert re.search(r"nats \(95% interval [\d.e-]+ to [\d.e-]+\)", found.out)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["evaluation"]["pruned"]["divergence"] > run["evaluation"]["dense"]["divergence"] == 0
    assert run["run"]["data"]["held_out"]["size"] == 12
    assert deadhead("evaluate", "out/model", "-t", "bundled:sentiment", "--json").code == 0
