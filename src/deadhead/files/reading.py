"""Reading files of unknown origin: regular, not too large, and JSON within limits."""

from __future__ import annotations

import contextlib
import json
import math
import stat
from hashlib import blake2b
from pathlib import Path
from typing import Any

from deadhead.errors import DataError, DeadheadError, FileFormatError
from deadhead.files.text import decode, one_line

MIB = 2**20
LARGEST = 64 * MIB  # of any file but data and weights
DEEPEST = 64  # levels of JSON; more would overflow the stack of whatever walks over it
LONGEST_INTEGER = 40  # digits; tokenizers write 10**30 for "no limit"


def read_bytes(path: str | Path, what: str, *, limit: int | None = LARGEST) -> bytes:
    """Read a regular file whole.

    Args:
        path: the file.
        what: what it should hold, for messages.
        limit: the most bytes that such a file can have; None: any number.

    Raises:
        DataError: there is no such file, it is no regular file, or it cannot be read.
        FileFormatError: it is larger than `limit`.
    """
    path = as_path(path, what)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{str(path)!r} is a folder; give the file in it that holds {what}")
        if not stat.S_ISREG(mode):
            raise DataError(f"{str(path)!r} is not a regular file; give one that holds {what}")
        with path.open("rb") as stream:
            content = stream.read(-1 if limit is None else limit + 1)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {str(path)!r}; give one that holds {what}") from error
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}; check its rights") from error
    if limit is not None and len(content) > limit:
        raise FileFormatError(
            f"{str(path)!r} has more than {limit} bytes, too many for {what};"
            " check that it is the right file"
        )
    return content


def as_path(given: str | Path, what: str) -> Path:
    """Turn what a caller passed into a path.

    Raises:
        DataError: it is neither text nor a path, or no file can have that name.
    """
    if not isinstance(given, (str, Path)) or "\0" in str(given):
        raise DataError(f"{given!r} is not a path; give the path of the file that holds {what}")
    path = Path(given)
    with contextlib.suppress(RuntimeError):  # ~name of a user who is not there
        path = path.expanduser()
    try:
        path.exists()
    except OSError as error:
        raise DataError(
            f"{str(given)!r:.80} cannot be the path of a file ({error.strerror}); give the path of"
            f" the file that holds {what}"
        ) from error
    return path


def read_text(path: str | Path, what: str, *, limit: int | None = LARGEST) -> str:
    """Read a UTF-8 text file.

    Raises:
        DataError: as `read_bytes`.
        FileFormatError: as `read_bytes`, or it is not UTF-8 text.
    """
    return decode(read_bytes(path, what, limit=limit), str(path))


def read_json(
    path: str | Path,
    *,
    what: str,
    limit: int | None = LARGEST,
    error: type[DeadheadError] = FileFormatError,
) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: the file.
        what: what it should hold, for messages.
        limit: the most bytes that such a file can have; None: any number.
        error: the class of the error for content that is not JSON; a checkpoint has its own.

    Raises:
        DataError: as `read_bytes`.
        FileFormatError: as `read_bytes`, or it is not one JSON object.
    """
    content = read_bytes(path, what, limit=limit)
    name = repr(str(path))
    try:
        found = parse_json(decode(content, str(path)), name, what)
        if not isinstance(found, dict):
            raise FileFormatError(f"{name} is not a JSON object; it should hold {what}")
    except FileFormatError as refused:
        if error is FileFormatError:
            raise
        raise error(str(refused)) from refused
    return found


def parse_json(text: str, place: str, what: str) -> Any:
    """Parse JSON that someone else wrote. NaN and infinities are taken as Python writes them.

    Args:
        text: the JSON.
        place: where it stands, for messages: `'plan.json'`, or `line 3 of 'rows.jsonl'`.
        what: what it should hold, for messages.

    Raises:
        FileFormatError: it is not JSON; or it is nested too deep, holds an integer that is too
            long, a key twice, or half a surrogate pair.
    """
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
        _check_depth(found)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FileFormatError(
            f"{place} holds half of a surrogate pair ({error.object[error.start]!a});"
            f" it should hold {what}"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else one_line(error)
        raise FileFormatError(f"{place} is not JSON ({reason}); it should hold {what}") from error
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"the key {twice[:40]!r} stands in one object twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"an integer has {len(digits)} digits, at most {LONGEST_INTEGER} are read")
    return int(digits)


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(DEEPEST):
        level = [
            each
            for outer in level
            if isinstance(outer, (dict, list))
            for each in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise RecursionError


def as_json(value: Any, what: str) -> Any:
    """Return a value as reading its JSON would: tuples as lists, keys as text.

    Raises:
        DataError: JSON cannot hold it.
    """
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"JSON cannot hold {what} ({one_line(error)}); leave that out") from error


def json_number(value: float) -> float | str | None:
    """Return a number as JSON can hold it: NaN becomes null, infinities become strings."""
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else repr(float(value))


def fingerprint(content: bytes) -> str:
    """Return 12 hex digits that change with any byte."""
    return blake2b(content, digest_size=6).hexdigest()
