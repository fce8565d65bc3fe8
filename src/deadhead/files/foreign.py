"""The bytes of a file that someone else wrote, and how a model's heads are named in errors."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from deadhead.errors import DataError, FileFormatError


def read_content(path: Path, what: str, *, largest: int | None = None) -> bytes:
    """Read a file whole.

    Args:
        path: the file.
        what: what it should hold, for messages.
        largest: bytes beyond which it cannot be that.

    Raises:
        DataError: there is no such file, or it cannot be read.
        FileFormatError: it is larger than `largest`.
    """
    try:
        if path.is_dir():
            raise DataError(f"{str(path)!r} is a folder; give the file in it that holds {what}")
        size = path.stat().st_size
        if largest is not None and size > largest:
            raise FileFormatError(
                f"{str(path)!r} has {size} bytes, too many for {what} (at most {largest}); check"
                " that it is the right file"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no file {str(path)!r}; give one that holds {what}") from error
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}; check its rights") from error


def fingerprint(content: bytes) -> str:
    """Return 12 hex digits that change with any byte."""
    return blake2b(content, digest_size=6).hexdigest()


def one_line(text: object, *, longest: int = 100) -> str:
    """Return the first line of foreign text as it can go on a terminal."""
    lines = str(text).splitlines() or [""]
    return lines[0][:longest].encode("unicode_escape").decode()


def blocks_of(counts: Sequence[int]) -> str:
    """Say how many heads a model has: `40 blocks of 40 heads`, or `blocks of [3, 4] heads`."""
    if counts and len(set(counts)) == 1:
        return f"{len(counts)} block{'s' * (len(counts) != 1)} of {counts[0]} heads"
    return f"blocks of {list(counts)} heads"
