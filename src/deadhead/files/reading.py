"""Reading what others wrote: decoded, bounded, printable, and JSON within limits."""

from __future__ import annotations

import contextlib
import json
import math
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from deadhead.errors import DataError, DeadheadError, FileFormatError

MIB = 2**20
LARGEST = 64 * MIB  # of any file but data and weights
DEEPEST = 64  # levels of JSON; more would overflow the stack of whatever walks over it
LONGEST_INTEGER = 40  # digits; tokenizers write 10**30 for "no limit"

# control characters, line separators, marks that reverse the direction of text, lone surrogates
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: object, *, keep: str = "") -> str:
    r"""Write characters that could change a terminal as escapes; those in `keep` stay.

    >>> printable("a\x1b[31m red name")
    'a\\x1b[31m red name'
    """

    def escaped(found: re.Match[str]) -> str:
        return found[0] if found[0] in keep else repr(found[0])[1:-1]

    return _UNPRINTABLE.sub(escaped, str(text))


def one_line(text: object, *, longest: int = 100) -> str:
    """Return the first line of foreign text, printable and not too long."""
    lines = str(text).strip().splitlines() or [""]
    return printable(lines[0][:longest])


def decode(content: bytes, name: str) -> str:
    """Decode UTF-8 text, with or without a byte order mark.

    Raises:
        FileFormatError: the file is binary or in another encoding.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{name!r} is not UTF-8 text (byte {content[error.start]:#04x} at {error.start});"
            " give a text file, or convert it to UTF-8"
        ) from error
    if "\0" in text:
        raise FileFormatError(f"{name!r} is binary, not text; give a text file")
    return text


def lines_of(text: str) -> list[str]:
    """Split at line ends only: texts may hold other separators that `splitlines` would cut at."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def read_bytes(path: str | Path, what: str, *, limit: int | None = LARGEST) -> bytes:
    """Read a regular file whole; `what` it should hold is for messages.

    Raises:
        DataError: there is no such file, it is no regular file, or it cannot be read.
        FileFormatError: it has more than `limit` bytes.
    """
    path = as_path(path, what)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{str(path)!r} is not a regular file; give one that holds {what}")
        with path.open("rb") as stream:
            content = stream.read(-1 if limit is None else limit + 1)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {str(path)!r}; give one that holds {what}") from error
    except OSError as error:
        raise DataError(
            f"cannot read {str(path)!r} ({error.strerror}); give a file that holds {what}"
        ) from error
    if limit is not None and len(content) > limit:
        raise FileFormatError(
            f"{str(path)!r} has more than {limit} bytes, too many for {what};"
            " check that it is the right file"
        )
    return content


def as_path(given: str | Path, what: str) -> Path:
    """Turn what a caller passed into a path, `~` expanded.

    Raises:
        DataError: it is neither text nor a path, or no file can have that name.
    """
    try:
        if not isinstance(given, (str, Path)) or "\0" in str(given):
            raise ValueError("it is no name of a file")
        path = Path(given)
        with contextlib.suppress(RuntimeError):  # ~name of a user who is not there
            path = path.expanduser()
        path.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{str(given)!r:.80} is not a path ({reason}); give a file that holds {what}"
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

    Raises:
        DataError, FileFormatError: as `read_bytes`.
        error: it is not one JSON object; a checkpoint has its own class.
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


@contextmanager
def refusing(kind: type[DeadheadError], what: str, advice: str) -> Iterator[None]:
    """Turn what Python raises on a value of the wrong form into an error of ours.

    Its message is `what` is wrong, such as `this is not a pruning plan`, Python's reason, and
    `advice`. Errors of ours pass as they are.
    """
    try:
        yield
    except DeadheadError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as e:
        reason = str(e) if isinstance(e, (TypeError, ValueError)) else repr(e)
        raise kind(f"{what} ({one_line(reason)}); {advice}") from e
