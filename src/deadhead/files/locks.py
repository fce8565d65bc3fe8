"""One writer for each output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from deadhead.errors import CheckpointError, OutputExistsError
from deadhead.files.reading import as_path


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
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise OutputExistsError(
            f"{str(output)!r} is being written by another process; wait for it, or choose another"
            " output with -o"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot write to {str(file.parent)!r}: {error};"
            " make room or choose another folder with -o"
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
