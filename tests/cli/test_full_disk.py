"""A disk that fills up at any write: one line, no half of anything, and --resume finishes."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest
import transformers
from command import MODEL, SMALL

RUN = ("prune", MODEL, *SMALL, "-o", "out")


def full(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def fill(monkeypatch, what: str) -> None:
    """Let one kind of write fail, or the journal from its third line on."""
    if what == "weights":
        monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    elif what == "tokenizer":
        monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", full)
    elif what == "figures":
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    elif what == "journal":
        opened, lines = Path.open, iter(range(2))

        def open_(self, mode="r", *args, **options):
            if mode == "a" and next(lines, None) is None:
                return Half(opened(self, mode))
            return opened(self, mode, *args, **options)

        monkeypatch.setattr(Path, "open", open_)
    else:
        written = Path.write_text

        def write_text(self, *args, **options):
            return full() if what in self.name else written(self, *args, **options)

        replaced = Path.replace

        def replace(self, target):
            return full() if what in Path(target).name else replaced(self, target)

        monkeypatch.setattr(Path, "write_text", write_text)
        monkeypatch.setattr(Path, "replace", replace)  # what is written whole has another name


class Half(io.StringIO):
    """A file that takes half of what is written."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def write(self, text):
        self.file.write(text[: len(text) // 2])
        self.file.close()
        full()


SLOW = ("tokenizer", "figures", "plan.json", "run.json", "report", "README")


@pytest.mark.parametrize(
    "what", ["weights", "journal", *(pytest.param(what, marks=pytest.mark.slow) for what in SLOW)]
)
@pytest.mark.slow
def test_a_full_disk_costs_a_line_and_no_work(deadhead, monkeypatch, tmp_path, request, what):
    if what not in ("figures", "report"):
        request.getfixturevalue("no_figures")
    with monkeypatch.context() as patch:
        fill(patch, what)
        line = deadhead(*RUN).refused()
    assert "No space left on device" in line
    assert "go on with --resume" in line
    assert "another folder" not in line, "the journal would not be found there"
    assert [p.name for p in tmp_path.iterdir()] == ["out.partial"]
    request.getfixturevalue("no_figures")
    found = deadhead(*RUN, "--resume")
    assert found.code == 0, found.err
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_a_disk_that_is_full_from_the_start_leaves_nothing(deadhead, monkeypatch, tmp_path):
    fill(monkeypatch, "journal")
    monkeypatch.setattr(Path, "write_text", full)
    line = deadhead(*RUN).refused()
    assert "journal.jsonl': [Errno 28] No space left on device; make room" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_other_commands_leave_no_half_file(deadhead, monkeypatch, tmp_path):
    data = ("-t", "bundled:sentiment", "--calibration-size", "8")
    assert deadhead("plan", MODEL, *data, "--heads", "3").code == 0
    plan = (tmp_path / "plan.json").read_text()
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
    for args in (
        ("plan", MODEL, *data, "--heads", "5"),
        ("score", MODEL, *data, "-o", "scores.json"),
        ("apply", MODEL, "--repair", "none", "-o", "cut"),
    ):
        assert "No space left on device" in deadhead(*args).refused()
    assert {p.name for p in tmp_path.iterdir()} == {"plan.json", "plan.repair.safetensors"}
    assert (tmp_path / "plan.json").read_text() == plan
