"""Writing files and folders: whole or not at all, and by one process at a time."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deadhead.errors import CheckpointError, DeadheadError, OutputExistsError
from deadhead.files.reading import as_path

MARK = "written-by-deadhead"  # a folder without this file is never removed


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds.

    The folder is made if it is missing. Where `path` is a link, the file behind it is replaced. If
    the block raises, nothing is left behind and an older file stays as it was.

    Raises:
        OutputExistsError: `path` is a folder, a device, a pipe: anything but a regular file.
        CheckpointError: writing failed (disk full, no permission).
    """
    check_file(path)
    target = as_path(path, "the output")
    with _explained(path):
        target = target.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".deadhead-{uuid.uuid4().hex[:12]}.tmp")
        try:
            yield temporary
            flush_to_disk(temporary)
            temporary.replace(target)
            flush_to_disk(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _explained(output: str | Path) -> Iterator[None]:
    """Turn what the system says on a failed write into an error of ours."""
    try:
        yield
    except DeadheadError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"cannot write {str(output)!r}: {error}; make room, change its rights, or choose"
            " another place with -o"
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text; the file appears whole or not at all.

    Raises: as `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, indent: int | None = 1) -> None:
    """Write one JSON value; the file appears whole or not at all.

    Raises: as `replacing`.
    """
    write_text(path, json.dumps(value, indent=indent) + "\n")


def flush_to_disk(path: Path) -> None:
    """Have the system write a file or the entries of a folder to the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(output: str | Path) -> Iterator[None]:
    """Keep other processes and threads from writing `output` for the length of the block.

    The lock is the file `.OUTPUT.lock` beside it. The system frees it when its process ends,
    however that ends. The same thread may lock an output that it has locked already.

    Raises:
        OutputExistsError: someone else is writing it.
        CheckpointError: there is no place for the lock (disk full, no permission).
    """
    whole = as_path(output, "the output").resolve()
    file = whole.parent / f".{whole.name}.lock"
    lock = FileLock(file, is_singleton=True)
    made = [folder for folder in file.parents if not folder.exists()]
    with _explained(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise OutputExistsError(
                f"{str(output)!r} is being written by another process; wait for it, or choose"
                " another output with -o"
            ) from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:  # removed while it is held: no other process can hold this file
            file.unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # something is in it now
            for folder in made:
                folder.rmdir()


def check_file(path: str | Path) -> None:
    """Refuse an output that exists and is no regular file: before the work, not after it.

    Raises:
        OutputExistsError: it is a folder, a device, or a pipe.
        CheckpointError: it cannot be looked at.
    """
    target = as_path(path, "the output")
    with _explained(path):
        if target.exists() and not target.is_file():
            raise OutputExistsError(f"{str(path)!r} is not a regular file; choose another with -o")


def check_empty(folder: str | Path) -> None:
    """Refuse an output folder that something is in.

    Raises:
        OutputExistsError: it is not empty, or not a folder.
        CheckpointError: it cannot be looked into.
    """
    path = as_path(folder, "the output")
    with _explained(folder):
        empty = not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))
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
    with locked(whole), _explained(target):
        for left in whole.parent.glob(f".{glob.escape(whole.name)}.*.writing"):
            if (left / MARK).is_file() and not left.is_symlink():  # no other process is writing it
                shutil.rmtree(left, ignore_errors=True)
        outer = whole.parent / f".{whole.name}.{uuid.uuid4().hex[:8]}.writing"
        working = outer / (whole.name or "folder")
        try:
            working.mkdir(parents=True)
            (outer / MARK).touch()
            yield working
            for place, _, names in os.walk(working):
                for path in (Path(place), *(Path(place, name) for name in names)):
                    flush_to_disk(path)
            check_empty(target)
            if whole.exists():  # perhaps a mount, a link, or where the user's shell is: it stays
                _move_in(working, whole)
            else:
                working.rename(whole)
            flush_to_disk(whole.parent)
        finally:
            shutil.rmtree(outer, ignore_errors=True)


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
