"""Writing a file whole or not at all; only regular files are replaced."""

from __future__ import annotations

import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deadhead.errors import CheckpointError, DeadheadError, OutputExistsError
from deadhead.files.reading import as_path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds.

    The folder is made if it is missing. Where `path` is a link, the file behind it is replaced. If
    the block raises, nothing is left behind and an older file stays as it was.

    Raises:
        OutputExistsError: `path` is a folder, a device, a pipe: anything but a regular file.
        CheckpointError: writing failed (disk full, no permission).
    """
    path = as_path(path, "the output")
    temporary = None
    try:
        target = _replaceable(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".deadhead-{uuid.uuid4().hex[:12]}.tmp")
        yield temporary
        flush_to_disk(temporary)
        temporary.replace(target)
        flush_to_disk(target.parent)
    except OSError as error:
        if isinstance(error, DeadheadError):
            raise
        raise CheckpointError(
            f"could not write {str(path)!r}: {error}; check the path, its rights and the room on"
            " the disk"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _replaceable(path: Path) -> Path:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise OutputExistsError(f"{str(path)!r} is {kind}, not a file; choose another with -o")
    return path.resolve()


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text; the file appears whole or not at all.

    Raises:
        OutputExistsError, CheckpointError: as `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, indent: int | None = 1) -> None:
    """Write one JSON value; the file appears whole or not at all.

    Raises:
        OutputExistsError, CheckpointError: as `replacing`.
    """
    write_text(path, json.dumps(value, indent=indent) + "\n")


def flush_to_disk(path: Path) -> None:
    """Have the system write a file or the entries of a folder to the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
