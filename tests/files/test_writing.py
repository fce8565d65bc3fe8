"""A file is written whole, and replaces a file or nothing."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from deadhead.errors import CheckpointError, DataError, OutputExistsError
from deadhead.files import replacing, write_json, write_text


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_write_replaces_the_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "figures" / "curve.svg"
    for text in ("one", "two"):
        write_text(path, text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_devices_pipes_and_folders_are_left_as_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/null")
    for path in ("/dev/null", tmp_path / "pipe", tmp_path / "folder", tmp_path / "link"):
        with pytest.raises(OutputExistsError, match=r"not a regular file; choose another with -o"):
            write_text(path, "text")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_a_link_stays_a_link_to_the_new_content(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link").symlink_to("real.json")
    write_json(tmp_path / "link", [1], indent=None)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real.json").read_text() == "[1]\n"


def test_failed_writes_are_errors_of_ours_and_leave_nothing(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="File name too long"):
        write_text(tmp_path / ("x" * 300), "text")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot write"):
        write_text(tmp_path / "file" / "below", "text")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; make room"):
        write_text(tmp_path / "file", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "x")]
