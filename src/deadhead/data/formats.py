"""File formats: from the bytes of a file to a table, or one line that says what is wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Set

import pandas as pd

from deadhead.errors import FileFormatError
from deadhead.files import decode, lines_of, one_line, parse_json

Reader = Callable[[bytes, str, Set[str]], pd.DataFrame]

# columns of a table without a header, by their number
_USUAL_COLUMNS = {
    1: ["text"],
    2: ["sentence", "label"],
    3: ["sentence1", "sentence2", "label"],
}


def name_columns(records: list[list[str]], path: str, labels: Set[str]) -> pd.DataFrame:
    """Make a table of records, of which the first may be a header.

    It is data, not a header, if one of its fields is a whole number, or its last field is one of
    the model's labels or the last field of another record as well. Then the columns are `text`,
    `sentence, label` or `sentence1, sentence2, label`; a label that is only in front is found too.
    """
    first, n = records[0], len(records[0])
    is_number = [_is_whole(field) for field in first]
    known = n > 1 and (first[-1] in labels or any(r[-1] == first[-1] for r in records[1:]))
    if not any(is_number) and not known and (n > 1 or _is_name(first[0])):
        if len(set(first)) < n:
            raise FileFormatError(f"{path!r} has a header with a name twice; rename one")
        return pd.DataFrame(records[1:], columns=first, dtype=object)
    if n not in _USUAL_COLUMNS:
        raise FileFormatError(f"{path!r} has {n} columns and no header; add a line that names them")
    names = _USUAL_COLUMNS[n]
    if is_number[0] and not is_number[-1] and n > 1:
        names = names[-1:] + names[:-1]
    return pd.DataFrame(records, columns=names, dtype=object)


def read_tsv(content: bytes, path: str, labels: Set[str]) -> pd.DataFrame:
    """Read tab-separated fields; quotes are plain text, unless only they make even records."""
    text = decode(content, path)
    records = [line.split("\t") for line in lines_of(text)]
    odd = next((n for n, r in enumerate(records) if len(r) != len(records[0])), None)
    if odd is not None:
        plain, records = records, quoted_records(text, "\t")
        if not _even(records):
            raise FileFormatError(_field_count(path, odd + 1, len(plain[odd]), len(plain[0])))
    _refuse_other_delimiters(records, path, "tabs")
    return name_columns(records, path, labels)


def read_csv(content: bytes, path: str, labels: Set[str]) -> pd.DataFrame:
    """Read fields with commas, or with semicolons where only these divide the lines evenly.

    Quotes are as RFC 4180 has them.
    """
    text = decode(content, path)
    records, semicolons = (quoted_records(text, delimiter) for delimiter in ",;")
    if _even(semicolons) and len(semicolons[0]) > 1:
        if _even(records) and len(records[0]) > 1:
            raise FileFormatError(
                f"commas and semicolons both divide the lines of {path!r} evenly; put texts in"
                " quotes"
            )
        records = semicolons
    if not _even(records):
        raise FileFormatError(_uneven_csv(text, path))
    _refuse_other_delimiters(records, path, "commas or semicolons")
    return name_columns(records, path, labels)


def quoted_records(text: str, delimiter: str) -> list[list[str]]:
    """Split text into fields, with quotes as RFC 4180 has them; nothing if they do not fit."""
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return [record for record in reader if record]
    except csv.Error:
        return []
    finally:
        csv.field_size_limit(limit)


def _even(records: list[list[str]]) -> bool:
    return len({len(record) for record in records}) == 1


def _uneven_csv(text: str, path: str) -> str:
    """Say which line makes a file no CSV."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    expected = 0
    try:
        for record in filter(None, reader):
            expected = expected or len(record)
            if len(record) != expected:
                return _field_count(path, reader.line_num, len(record), expected)
    except csv.Error as error:
        return f"line {reader.line_num} of {path!r} is not CSV: {error}"
    return f"{path!r} is not CSV"


def _refuse_other_delimiters(records: list[list[str]], path: str, used: str) -> None:
    """Refuse one column that another delimiter divides evenly into a text and a number."""
    if len(records[0]) > 1 or len(records) < 3:
        return
    for delimiter in ("\t", ",", ";", "|"):
        divided = [record[0].split(delimiter) for record in records[1:]]
        numbers = any(all(_is_whole(fields[end]) for fields in divided) for end in (0, -1))
        if _even(divided) and len(divided[0]) > 1 and numbers:
            raise FileFormatError(
                f"{path!r} has no {used} between its fields, but {delimiter!r} in each line; write"
                " tabs in a .tsv file, and commas or semicolons in a .csv file"
            )


def read_jsonl(content: bytes, path: str, labels: Set[str]) -> pd.DataFrame:
    """Read one JSON object a line."""
    records = []
    for number, line in enumerate(lines_of(decode(content, path)), 1):
        if not line.strip():
            continue
        record = parse_json(line, f"line {number} of {path!r}", "one JSON object")
        if not isinstance(record, dict):
            raise FileFormatError(f"line {number} of {path!r} is not a JSON object; write {{...}}")
        records.append(record)
    return pd.DataFrame(records)


def read_json_table(content: bytes, path: str, labels: Set[str]) -> pd.DataFrame:
    """Read a list of objects, an object of columns, or either under the key `data`."""
    what = "a table; for one object a line the ending is .jsonl"
    found = parse_json(decode(content, path), repr(path), what)
    if isinstance(found, dict) and "data" in found:
        found = found["data"]
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return pd.DataFrame(found)
    columns = list(found.values()) if isinstance(found, dict) else []
    if all(isinstance(c, list) for c in columns) and len({len(c) for c in columns}) == 1:
        return pd.DataFrame(found)
    raise FileFormatError(
        f"{path!r} is not a table; write a list of objects, or an object of equally long lists"
    )


def read_parquet(content: bytes, path: str, labels: Set[str]) -> pd.DataFrame:
    """Read a Parquet table."""
    from pyarrow import ArrowException

    if content[:4] != b"PAR1" or content[-4:] != b"PAR1":
        raise FileFormatError(f"{path!r} is not Parquet: its magic bytes are missing")
    try:
        return pd.read_parquet(io.BytesIO(content))
    except (ArrowException, OSError, ValueError) as error:
        raise FileFormatError(f"{path!r} is damaged Parquet: {one_line(error)}") from error


def read_txt(content: bytes, path: str, labels: Set[str]) -> pd.DataFrame:
    """Read one text a line, without the blank ones."""
    lines = [line for line in lines_of(decode(content, path)) if line.strip()]
    return pd.DataFrame({"text": lines}, dtype=object)


READERS: dict[str, Reader] = {
    ".tsv": read_tsv,
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".json": read_json_table,
    ".parquet": read_parquet,
    ".txt": read_txt,
}


def _field_count(path: str, number: int, found: int, expected: int) -> str:
    return (
        f"line {number} of {path!r} has {found} field{'s' * (found != 1)}, line 1 has {expected};"
        " correct it or remove it"
    )


def _is_whole(field: str) -> bool:
    return field.strip().removeprefix("-").isdecimal()


def _is_name(field: str) -> bool:
    return field.strip().isidentifier() and field in ("text", "sentence", "content", "review")
