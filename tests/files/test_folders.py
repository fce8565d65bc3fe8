"""Writing a folder whole touches nothing that was there before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from deadhead.errors import CheckpointError, OutputExistsError
from deadhead.files import whole_folder


def save(target: str | Path) -> None:
    with whole_folder(target) as folder:
        for name in FILES:
            (folder / name).write_text("content")


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


FILES = {"model.safetensors", "README.md"}


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_written_to_a_path_of_either_kind(tmp_path, kind):
    save(kind(tmp_path / "new" / "model"))
    assert names(tmp_path / "new") == {"model"}
    assert names(tmp_path / "new" / "model") == FILES


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    for target in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(OutputExistsError, match="is not empty; choose another"):
            save(target)
    assert names(tmp_path) == {"mine.txt"}
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_what_appears_in_the_target_meanwhile_is_left_alone(tmp_path):
    def write_slowly():
        with whole_folder(tmp_path / "out") as folder:
            (folder / "README.md").write_text("content")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "mine.txt").write_text("precious")

    with pytest.raises(OutputExistsError, match="is not empty"):
        write_slowly()
    assert names(tmp_path) == {"out"}
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("target", [".", "../here", "~/here"])
def test_an_empty_folder_is_filled_where_it_is(tmp_path, monkeypatch, target):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    inode = here.stat().st_ino
    save(target)
    assert here.stat().st_ino == inode, "a shell that is there would see nothing"
    assert names(here) == FILES
    assert names(tmp_path) == {"here"}


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path):
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big-disk")
    save(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "big-disk") == FILES
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputExistsError, match="is not empty"):
        save(tmp_path / "nowhere")


def test_a_move_that_fails_leaves_the_empty_folder_empty(tmp_path, monkeypatch):
    move, calls = shutil.move, iter(range(1))

    def once(source, target):
        if next(calls, None) is None:
            raise OSError(28, "No space left on device")
        return move(source, target)

    monkeypatch.setattr(shutil, "move", once)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="No space left on device; make room"):
        save(tmp_path / "out")
    assert names(tmp_path) == {"out"}
    assert os.listdir(tmp_path / "out") == []
