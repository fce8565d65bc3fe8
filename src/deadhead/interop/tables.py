"""Tables of numbers in the formats that people keep them in: from bytes to unchecked rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deadhead.errors import FileFormatError, HeadError
from deadhead.files import decode, one_line, parse_json
from deadhead.interop.unpickle import unpickle_bytes

# from the content, the name of the file for messages, and the heads per block of the model
TableReader = Callable[[bytes, str, Sequence[int]], Any]

LONG_FORM = ("block", "head", "score")


def npy_table(content: bytes, name: str, counts: Sequence[int]) -> Any:
    """Read one array; pickled objects in it are refused."""
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a damaged header can raise anything
        raise _no_table(name, ".npy", error) from error


def csv_table(content: bytes, name: str, counts: Sequence[int]) -> Any:
    """Read a row of numbers per block, or a header with `LONG_FORM` and a row per head."""
    text = decode(content, name)
    try:
        records = [r for r in csv.reader(io.StringIO(text, newline=""), strict=True) if r]
    except csv.Error as error:
        raise _no_table(name, "CSV", error) from error
    header = [field.strip().lower() for field in records[0]] if records else []
    if set(LONG_FORM) <= set(header):
        return _long_form(name, records, header, counts)
    return [
        [_number(field, name, row, blank=np.nan) for field in fields]
        for row, fields in enumerate(records)
    ]


def _long_form(
    name: str, records: list[list[str]], header: list[str], counts: Sequence[int]
) -> list[np.ndarray]:
    rows = [np.full(n, np.nan) for n in counts]
    seen: set[tuple[float, float]] = set()
    columns = [header.index(column) for column in LONG_FORM]
    for row, fields in enumerate(records[1:], 1):
        if len(fields) != len(header):
            raise FileFormatError(f"row {row} of {name!r} has {len(fields)} fields; correct it")
        block, head = (_number(fields[at], name, row) for at in columns[:2])
        score = _number(fields[columns[2]], name, row, blank=np.nan)
        if not (block.is_integer() and 0 <= block < len(counts)) or not (
            head.is_integer() and 0 <= head < counts[int(block)]
        ):
            raise HeadError(
                f"row {row} of {name!r} names block {block:g} head {head:g}, the model has"
                f" {blocks_of(counts)}: is it a table of another model?"
            )
        if (block, head) in seen:
            raise FileFormatError(
                f"row {row} of {name!r} scores head {block:g}.{head:g} again; keep one"
            )
        seen.add((block, head))
        rows[int(block)][int(head)] = score
    return rows


def _number(field: str, name: str, row: int, *, blank: float | None = None) -> float:
    if blank is not None and not field.strip():
        return blank
    try:
        return float(field)
    except ValueError as error:
        raise FileFormatError(
            f"row {row} of {name!r} has {field[:40]!r}, which is not a number; write a row of"
            f" numbers per block, or a header {','.join(LONG_FORM)} and a row per head"
        ) from error


def json_table(content: bytes, name: str, counts: Sequence[int]) -> Any:
    """Read a list of rows, or the rows of each criterion in a scores.json."""
    found = parse_json(decode(content, name), repr(name), "an importance table")
    if isinstance(found, dict):  # scores.json: of one criterion, or by criterion
        entries = {str(found.get("criterion", "values")): found} if "values" in found else found
        return {
            criterion: entry.get("values") if isinstance(entry, dict) else entry
            for criterion, entry in entries.items()
        }
    return found


def safetensors_table(content: bytes, name: str, counts: Sequence[int]) -> Any:
    """Read all tensors by name."""
    import safetensors
    import safetensors.torch

    try:
        return dict(safetensors.torch.load(content))
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _no_table(name, "safetensors", error) from error


def pickle_table(content: bytes, name: str, counts: Sequence[int]) -> Any:
    """Read what `unpickle` lets through."""
    return unpickle_bytes(content, name)


READERS: dict[str, TableReader] = {
    ".npy": npy_table,
    ".csv": csv_table,
    ".json": json_table,
    ".safetensors": safetensors_table,
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".bin"), pickle_table),
}


def blocks_of(counts: Sequence[int]) -> str:
    """Say how many heads a model has: `40 blocks of 40 heads`, or `blocks of [3, 4] heads`."""
    if counts and len(set(counts)) == 1:
        return f"{len(counts)} block{'s' * (len(counts) != 1)} of {counts[0]} heads"
    return f"blocks of {list(counts)} heads"


def _no_table(name: str, kind: str, error: Exception) -> FileFormatError:
    reason = one_line(error) or type(error).__name__
    return FileFormatError(f"{name!r} is not {kind} with a table of numbers ({reason}); convert it")
