"""Text from outside: decoded, split into lines, and made safe to print."""

from __future__ import annotations

import re

from deadhead.errors import FileFormatError

# control characters, line separators, marks that reverse the direction of text, lone surrogates
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: object, *, keep: str = "") -> str:
    r"""Write characters that could change a terminal as escapes; those in `keep` stay.

    >>> printable("a\x1b[31m red name")
    'a\\x1b[31m red name'
    """
    return _UNPRINTABLE.sub(lambda found: _escaped(found[0], keep), str(text))


def _escaped(letter: str, keep: str) -> str:
    return letter if letter in keep else repr(letter)[1:-1]


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
