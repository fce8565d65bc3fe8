"""File formats: from a file or a folder to rows, or one line that says what is wrong."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import replace
from pathlib import Path

import pandas as pd

from deadhead.data.rows import PAIR_COLUMNS, PARADIGM, Rows
from deadhead.errors import DataError, FileFormatError
from deadhead.files import as_path, decode, lines_of, one_line, parse_json, read_bytes

Reader = Callable[[bytes, str, Set[str]], pd.DataFrame]

_SLICE = re.compile(r"(?P<path>.+)\[(?P<start>-?\d*):(?P<stop>-?\d*)\]")

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
    plain = [line.split("\t") for line in lines_of(text)]
    records = plain if is_even(plain) else quoted_records(text, "\t")
    return _checked(records, plain, "tabs", path, labels)


def read_csv(content: bytes, path: str, labels: Set[str]) -> pd.DataFrame:
    """Read fields with commas, or with semicolons where only these divide the lines evenly.

    Quotes are as RFC 4180 has them.
    """
    text = decode(content, path)
    commas, semicolons = (quoted_records(text, delimiter) for delimiter in ",;")
    wide = [r for r in (commas, semicolons) if is_even(r) and len(r[0]) > 1]
    if len(wide) > 1:
        raise FileFormatError(
            f"commas and semicolons both divide the lines of {path!r} evenly; put texts in quotes"
        )
    records = wide[0] if wide else commas
    return _checked(records, commas, "commas or semicolons", path, labels)


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


def is_even(records: list[list[str]]) -> bool:
    """Whether there are records, all of as many fields."""
    return len({len(record) for record in records}) == 1


def _checked(
    records: list[list[str]], plain: list[list[str]], used: str, path: str, labels: Set[str]
) -> pd.DataFrame:
    """Make a table of even records, unless another delimiter divides one column evenly."""
    if not is_even(records):
        odd = next((n for n, r in enumerate(plain) if len(r) != len(plain[0])), None)
        why = "its quotes do not match"
        if odd is not None:
            why = f"record {odd + 1} has {len(plain[odd])} fields, record 1 has {len(plain[0])}"
        raise FileFormatError(f"{path!r} has no {used} that divide it evenly: {why}; correct it")
    for delimiter in "\t,;|" if len(records[0]) == 1 and len(records) > 2 else ():
        divided = [record[0].split(delimiter) for record in records[1:]]
        numbers = any(all(_is_whole(fields[end]) for fields in divided) for end in (0, -1))
        if is_even(divided) and len(divided[0]) > 1 and numbers:
            raise FileFormatError(
                f"{path!r} has no {used} between its fields, but {delimiter!r} in each line; write"
                " tabs in a .tsv file, and commas or semicolons in a .csv file"
            )
    return name_columns(records, path, labels)


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

    try:
        return pd.read_parquet(io.BytesIO(content))
    except (ArrowException, OSError, ValueError) as error:
        raise FileFormatError(f"{path!r} is no whole Parquet file ({one_line(error)})") from error


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


def split_slice(spec: str) -> tuple[str, slice | None]:
    """Split `FILE[0:800]` into the path and the slice, which is None where there is none."""
    found = None if as_path(spec, "data").exists() else _SLICE.fullmatch(spec)
    if found is None:
        return spec, None
    ends = [int(end) if end else None for end in (found["start"], found["stop"])]
    return found["path"], slice(*ends)


def read_file(path: Path, *, labels: Iterable[str] = ()) -> Rows:
    """Read one file by its ending; a TSV or CSV file needs no header: see `name_columns`."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(sorted(READERS))
        raise DataError(f"cannot read {str(path)!r}: its ending is none of {known}; convert it")
    content = read_bytes(path, "data", limit=None)
    frame = reader(content, str(path), frozenset(labels)) if content.strip() else pd.DataFrame()
    if frame.empty:
        raise DataError(f"{str(path)!r} has no rows; give a file with at least one")
    return Rows.of(frame.reset_index(drop=True), str(path), file=str(path.resolve()))


def data_files(folder: Path) -> list[Path]:
    """List the files of a folder that can be read, by name."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in READERS)
    if not files:
        raise DataError(
            f"the folder {str(folder)!r} has no files to read; supported are {', '.join(READERS)},"
            " images (.png, .jpg, ...) and recordings (.wav, .flac, ...)"
        )
    return files


def read_folder(
    folder: Path,
    files: Sequence[Path],
    source: str,
    take: Callable[[Rows], Rows],
    *,
    labels: Iterable[str] = (),
) -> Rows:
    """Read files below each other; `take` chooses the rows of each.

    A file of minimal pairs without a `UID` column is the paradigm of its name.
    """
    parts = []
    for path in files:
        rows = take(read_file(path, labels=labels))
        if PAIR_COLUMNS.issubset(rows.columns):
            if PARADIGM not in rows.columns:
                rows.frame[PARADIGM] = path.stem
            rows = replace(rows, frame=rows.frame[[*sorted(PAIR_COLUMNS), PARADIGM]])
        parts.append(rows)
    odd = next((p for p in parts if set(p.columns) != set(parts[0].columns)), None)
    if odd is not None:
        raise DataError(
            f"the files of {str(folder)!r} have different columns: {parts[0].source!r} has"
            f" {', '.join(parts[0].columns)}, {odd.source!r} has {', '.join(odd.columns)};"
            " give one of them, or name them train, dev and test"
        )
    return Rows.concatenate(parts, source)


def _is_whole(field: str) -> bool:
    return field.strip().removeprefix("-").isdecimal()


def _is_name(field: str) -> bool:
    return field.strip().isidentifier() and field in ("text", "sentence", "content", "review")
