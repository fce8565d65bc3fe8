"""Writing a folder: whole or not at all, and by one process at a time."""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deadhead.errors import CheckpointError, DeadheadError, OutputExistsError
from deadhead.files.locks import locked
from deadhead.files.reading import as_path
from deadhead.files.writing import flush_to_disk

MARK = "written-by-deadhead"  # a folder without this file is never removed


def check_empty(folder: str | Path) -> None:
    """Refuse an output folder that something is in.

    Raises:
        OutputExistsError: it is not empty, or not a folder.
        CheckpointError: it cannot be looked into.
    """
    path = as_path(folder, "the output")
    try:
        empty = not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))
    except OSError as error:
        raise CheckpointError(
            f"cannot look into {str(folder)!r}: {error}; change its rights"
        ) from error
    if not empty:
        raise OutputExistsError(
            f"output folder {str(folder)!r} is not empty; choose another with -o, or remove it"
        )


@contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """Give a temporary folder next to `target` that takes its name once everything is in it.

    What a killed process left of the same folder is removed first.

    Raises:
        OutputExistsError: `target` is not empty, before or by then, or another process is writing
            it; nothing in it is touched.
        CheckpointError: writing failed (disk full, no permission); nothing is left behind.
    """
    check_empty(target)
    whole = as_path(target, "the output").absolute()  # "." has no name to put another beside
    with locked(whole):
        _remove_leftovers(whole)
        outer = whole.parent / f".{whole.name}.{uuid.uuid4().hex[:8]}.writing"
        working = outer / (whole.name or "folder")
        try:
            working.mkdir(parents=True)
            (outer / MARK).touch()
            yield working
            _flush_all(working)
            check_empty(target)
            if whole.exists():  # perhaps a mount, a link, or where the user's shell is: it stays
                _move_in(working, whole)
            else:
                working.rename(whole)
            flush_to_disk(whole.parent)
        except OSError as error:
            if isinstance(error, DeadheadError):
                raise
            raise CheckpointError(
                f"could not write {whole.name!r}: {error}; make room or change its rights"
            ) from error
        finally:
            shutil.rmtree(outer, ignore_errors=True)


def _remove_leftovers(whole: Path) -> None:
    """Remove what killed writers left; no other process writes while this one holds the lock."""
    for folder in whole.parent.glob(f".{glob.escape(whole.name)}.*.writing"):
        if (folder / MARK).is_file() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def _flush_all(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in names)):
            flush_to_disk(path)


def _move_in(working: Path, target: Path) -> None:
    """Move everything from one folder to another, an empty one, or leave that as it was."""
    moved: list[Path] = []
    try:
        for item in sorted(working.iterdir()):
            place = target / item.name
            if os.path.lexists(place):
                raise OutputExistsError(f"{str(place)!r} has just appeared; choose another with -o")
            moved.append(place)
            shutil.move(item, place)
    except BaseException:
        for path in moved:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise
