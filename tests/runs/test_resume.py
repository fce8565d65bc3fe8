"""Stop a run anywhere, go on, and nobody can tell."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_run import outcome, settings

from deadhead.errors import CheckpointError, DataError, OutputExistsError
from deadhead.runs.journal import Journal, partial_folder
from deadhead.runs.prune import run_prune
from deadhead.runs.run_settings import RunSettings, Watch
from deadhead.runs.settings import ModelSettings


class Pulled(BaseException):
    """The plug."""


def unplugged(after: int) -> Watch:
    """A watch that pulls the plug at its `after`-th call."""
    calls = iter(range(after))

    def tick(*args):
        if next(calls, None) is None:
            raise Pulled

    return Watch(on_total=tick, on_note=tick, on_work=tick)


def lines(output: Path) -> list[str]:
    return (partial_folder(output) / "journal.jsonl").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "random"), [("greedy", 2), ("one_shot", 0)])
def test_a_run_stopped_anywhere_goes_on_to_the_same_end(no_figures, tmp_path, strategy, random):
    whole = settings(tmp_path / "whole", strategy=strategy, random=random)
    run_prune(whole)
    expected, stops = outcome(whole.output), 0
    for after in range(100):
        asked = replace(whole, output=tmp_path / f"run{after}")
        try:
            run_prune(asked, watch=unplugged(after))
        except Pulled:
            stops += 1
            assert not asked.output.exists()
            run_prune(asked, resume=True)
            assert outcome(asked.output) == expected
            assert not partial_folder(asked.output).exists()
        else:
            break
    assert stops >= (15 if random else 10)


@pytest.mark.slow
def test_a_run_stopped_again_and_again_ends_the_same(finished, again, no_figures):
    for stop in range(3, 6):  # a little further every time
        with pytest.raises(Pulled):
            run_prune(again, resume=stop > 3, watch=unplugged(stop))
    run_prune(again, resume=True)
    assert outcome(again.output) == outcome(finished[0].output)


@pytest.mark.slow
def test_what_is_done_is_not_done_again(again, no_figures, monkeypatch):
    with pytest.raises(Pulled):
        run_prune(again, watch=unplugged(10))
    before = lines(again.output)
    assert len(before) > 5
    work = []
    run_prune(again, resume=True, watch=Watch(on_work=work.append))
    drawn = sum("random" in json.loads(line) for line in before)
    # dense, 2 draws of the plan's 8 heads, 2 of 50%, and no heads at all
    assert work.count("random draw") == 6 - drawn
    assert len([line for line in before if line.startswith('{"step"')]) > 1


@pytest.mark.slow
def test_a_run_goes_on_with_what_it_had_decided(no_figures, monkeypatch, tmp_path):
    whole = settings(tmp_path / "whole", criterion="auto", random=0)
    run_prune(whole)
    asked = replace(whole, output=tmp_path / "run")
    with pytest.raises(Pulled):
        run_prune(asked, watch=unplugged(7))
    assert sum(line.startswith('{"step"') for line in lines(asked.output)) > 1
    assert any(line.startswith('{"decision"') for line in lines(asked.output))
    journal = partial_folder(asked.output) / "journal.jsonl"
    written = journal.read_text()
    journal.write_text(written.replace('"strategy": ', '"strategi": '))
    with pytest.raises(CheckpointError, match=r"is not a journal .*strategy"):
        run_prune(asked, resume=True)
    without = [line for line in written.splitlines(True) if not line.startswith('{"decision"')]
    journal.write_text("".join(without))
    with pytest.raises(DataError, match="does not say what auto had decided"):
        run_prune(asked, resume=True)
    journal.write_text(written)
    monkeypatch.setattr("deadhead.pruning.loop.AutoSelector", None)  # would be called
    run_prune(asked, resume=True)
    assert outcome(asked.output) == outcome(whole.output)


@pytest.mark.parametrize("torn", ['{"step": {"mask', '{"random": [0, 12', "{"])
@pytest.mark.slow
def test_a_torn_last_line_is_dropped(finished, again, no_figures, torn):
    with pytest.raises(Pulled):
        run_prune(again, watch=unplugged(7))
    file = partial_folder(again.output) / "journal.jsonl"
    file.write_text(file.read_text() + torn)
    run_prune(again, resume=True)
    assert outcome(again.output) == outcome(finished[0].output)


def test_a_torn_line_is_cut_off_without_writing(again, no_figures, monkeypatch):
    with pytest.raises(Pulled):
        run_prune(again, watch=unplugged(7))
    file = partial_folder(again.output) / "journal.jsonl"
    whole = file.read_bytes()
    torn = whole + '{"step": {"mäsk'.encode()[:-4]
    file.write_bytes(torn)
    header = json.loads(whole.splitlines()[0])["header"]

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.truncate", full)
        with pytest.raises(CheckpointError, match=r"cannot read or repair .*No space left"):
            Journal.open(again.output, header, resume=True)
    assert file.read_bytes() == torn
    monkeypatch.setattr(Path, "write_text", full)
    journal = Journal.open(again.output, header, resume=True)
    assert len(journal.steps) > 0
    assert file.read_bytes() == whole


def test_a_run_in_the_folder_where_one_is_waits_beside_it(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert partial_folder(Path()) == tmp_path / "here.partial"
    assert partial_folder(Path("~/x")) == Path.home() / "x.partial"


@pytest.mark.slow
def test_other_weights_and_versions_are_refused(finished, no_figures, monkeypatch, tmp_path):
    shutil.copytree(finished[0].output / "model", tmp_path / "model")
    asked = settings(tmp_path / "run", heads=12, random=0, save=False)
    asked = replace(asked, model=ModelSettings(str(tmp_path / "model")))
    with pytest.raises(Pulled):
        run_prune(asked, watch=unplugged(4))
    weights = tmp_path / "model" / "model.safetensors"
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    with pytest.raises(DataError, match="started with another weights; give the same"):
        run_prune(asked, resume=True)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with monkeypatch.context() as patch:
        module = importlib.import_module("deadhead.runs.facts")
        patch.setattr(module, "version", lambda package: "0")
        with pytest.raises(DataError, match="started with another versions; give the same"):
            run_prune(asked, resume=True)
    run_prune(asked, resume=True)


@pytest.mark.slow
def test_seconds_count_the_steps_of_earlier_processes(again, no_figures):
    with pytest.raises(Pulled):
        run_prune(again, watch=unplugged(7))
    file = partial_folder(again.output) / "journal.jsonl"
    entries = [json.loads(line) for line in lines(again.output)]
    next(e for e in entries if "step" in e)["step"]["seconds"] = 5000.0
    file.write_text("".join(json.dumps(e) + "\n" for e in entries))
    assert run_prune(again, resume=True).run["seconds"] > 5000


def test_a_journal_is_there_with_its_whole_header_or_not_at_all(tmp_path, monkeypatch):
    def full(self, text, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match="No space left on device; make room"):
        Journal.open(tmp_path / "run", {"a": 1}, resume=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_other_settings_are_refused_and_named(again, no_figures):
    with pytest.raises(Pulled):
        run_prune(again, watch=unplugged(7))
    before = lines(again.output)
    for other, what in (
        (replace(again, recipe=replace(again.recipe, heads=9)), "recipe"),
        (replace(again, data=replace(again.data, test_size=25)), "data, fingerprints"),
        (replace(again, random=3), "random"),
    ):
        with pytest.raises(DataError, match=f"started with another {what}; give the same options"):
            run_prune(other, resume=True)
    assert lines(again.output) == before
    run_prune(replace(again, command="typed otherwise"), resume=True)


@pytest.mark.parametrize(
    "content", ["", "\n", "garbage\n", "[1]\n", "{}\n", '{"header": 3}\n', '{"header": [1]}\n']
)
def test_what_is_not_a_journal_is_refused_and_left_alone(again, content):
    file = partial_folder(again.output) / "journal.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(CheckpointError, match=r"is not a journal \(.*\); remove '.*' and start"):
        run_prune(again, resume=True)
    assert file.read_text() == content


def test_there_has_to_be_something_to_resume(again):
    with pytest.raises(DataError, match=r"no interrupted run in .*start without --resume"):
        run_prune(again, resume=True)


def test_a_second_start_does_not_overwrite_what_waits(again):
    with pytest.raises(Pulled):
        run_prune(again, watch=unplugged(7))
    before = lines(again.output)
    with pytest.raises(OutputExistsError, match="holds an interrupted run; continue"):
        run_prune(again)
    assert lines(again.output) == before


OPTIONS = ["--heads", "100%", "--calibration-size", "16", "--test-size", "24", "--no-speed"]


def start(output: Path) -> subprocess.Popen:
    """Start a process that will be stopped, and wait until it has done some steps."""
    command = ["prune", "bundled:encoder", "-t", "bundled:sentiment", "-o", str(output), *OPTIONS]
    threads = str(torch.get_num_threads())  # the order of float sums, and so their last bits
    process = subprocess.Popen(
        [sys.executable, "-m", "deadhead", *command],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        # a shell lets jobs in the background ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    file, end = partial_folder(output) / "journal.jsonl", time.monotonic() + 120
    while time.monotonic() < end and not (file.exists() and file.read_text().count("\n") > 5):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    return process


def finish(output: Path, *, resume: bool) -> dict:
    """Do in this process what `start` began, and return what came out."""
    base = settings(output, random=0, heads=1.0, per_step=1)
    asked = replace(
        base,
        data=replace(base.data, selection_size=None),
        random_fractions=RunSettings.random_fractions,
    )
    run_prune(asked, resume=resume)
    return outcome(output)


@pytest.mark.slow
def test_kill_and_ctrl_c_lose_nothing(no_figures, tmp_path):
    with start(tmp_path / "killed") as killed:
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
    with start(tmp_path / "stopped") as stopped:
        stopped.send_signal(signal.SIGINT)
        message = stopped.communicate()[1]
    assert stopped.returncode == 130
    assert "continue with the same command and --resume" in message
    assert "stopped.partial" in message
    assert "Traceback" not in message
    visible = {p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")}
    assert visible == {"killed.partial", "stopped.partial"}
    whole = finish(tmp_path / "whole", resume=False)
    assert len(whole["steps"]) == 25
    assert finish(tmp_path / "killed", resume=True) == whole
    assert finish(tmp_path / "stopped", resume=True) == whole
