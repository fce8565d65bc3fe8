"""Files that others wrote: read within limits, or refused in one line."""

from __future__ import annotations

import os

import pytest

from deadhead.errors import CheckpointError, DataError, FileFormatError
from deadhead.files import parse_json, printable, read_bytes, read_json, read_text

ODD_JSON = {
    "nested arrays": ("[" * 100_000, "nested too deep"),
    "nested objects": ('{"a":' * 100_000, "nested too deep"),
    "just too deep": ("[" * 65 + "]" * 65, "nested too deep"),
    "long integer": ('{"a": ' + "1" * 5000 + "}", "an integer has 5000 digits"),
    "longer than any float": ('{"a": -' + "1" * 400 + "}", "an integer has 401 digits"),
    "a key twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands in one object twice"),
    "half a surrogate pair": ('{"a": "\\ud800"}', "surrogates not allowed"),
    "half a pair as a key": ('{"\\uD800": 1}', "surrogates not allowed"),
    "cut off": ('{"a": ', "Expecting value"),
    "two values": ('{"a": 1}{"a": 2}', "Extra data"),
    "nothing": ("", "Expecting value"),
    "an array": ("[1, 2]", "is not a JSON object"),
    "a number": ("3", "is not a JSON object"),
}


@pytest.mark.parametrize("kind", ODD_JSON)
def test_odd_json_is_refused_in_one_line(tmp_path, kind):
    content, reason = ODD_JSON[kind]
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(FileFormatError, match=reason) as caught:
        read_json(tmp_path / "x.json", what="a plan")
    assert "it should hold a plan" in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.raises(CheckpointError, match=reason):
        read_json(tmp_path / "x.json", what="a plan", error=CheckpointError)


def test_json_within_the_limits_is_read_as_python_writes_it(tmp_path):
    content = '\ufeff{"a": [NaN, Infinity, 1e30], "b": "\\ud83d\\ude00", "c": %s}' % 10**30
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    found = read_json(tmp_path / "x.json", what="numbers")
    assert str(found["a"]) == "[nan, inf, 1e+30]"
    assert (found["b"], found["c"]) == ("\N{GRINNING FACE}", 10**30)
    assert parse_json("[" * 64 + "]" * 64, "it", "lists")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name, said in (
        ("pipe", "not a regular file"),
        ("link", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("missing", "there is no file"),
        ("", "not a regular file"),
        ("x/" * 5000, "is not a path .File name too long"),
    ):
        with pytest.raises(DataError, match=said):
            read_bytes(tmp_path / name, "a plan")
    for path in ("a\0b", None, 3, b"x"):
        with pytest.raises(DataError, match="is not a path"):
            read_bytes(path, "a plan")
    with pytest.raises(DataError, match="no file '~nobody-of-that-name/x'"):
        read_bytes("~nobody-of-that-name/x", "a plan")


def test_size_and_encoding_are_checked(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", "text", limit=5) == b"12345"
    with pytest.raises(FileFormatError, match="more than 4 bytes, too many for text"):
        read_bytes(tmp_path / "x", "text", limit=4)
    for content, said in ((b"\xff\xfe1", "not UTF-8"), (b"a\0", "binary")):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(FileFormatError, match=said):
            read_text(tmp_path / "x", "text")


def test_nothing_that_moves_the_cursor_is_printable():
    assert printable("a\tb\n\x1b[2J\x9b\u202e\ud800", keep="\n") == (
        "a\\tb\n\\x1b[2J\\x9b\\u202e\\ud800"
    )
    assert printable("ñ 漢字 \N{GRINNING FACE}") == "ñ 漢字 \N{GRINNING FACE}"
