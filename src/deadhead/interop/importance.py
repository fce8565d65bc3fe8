"""Importance tables that someone else computed: one number per head, from many kinds of file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deadhead.errors import DataError, FileFormatError, HeadError, ScoreError, unknown_name
from deadhead.files import as_path, decode, fingerprint, one_line, parse_json, read_bytes
from deadhead.interop.unpickle import unpickle_bytes
from deadhead.options.fields import check_arguments
from deadhead.types import HeadScores

# from the content, the name of the file for messages, and the heads per block of the model
TableReader = Callable[[bytes, str, Sequence[int]], Any]

LONG_FORM = ("block", "head", "score")
_INFINITE = {"inf": np.inf, "-inf": -np.inf}  # as deadhead's own JSON writes them


@check_arguments
def read_importance(
    path: str | Path, *, counts: Sequence[int], key: str | None = None
) -> HeadScores:
    """Read an importance table as scores: higher = more important, NaN = not scored.

    The ending says what the file is:

    - `.npy`: one array, blocks x heads; pickled objects are not read.
    - `.csv`: a row per block without a header (an empty field is NaN), or a header with `block`,
      `head` and `score` and a row per head (heads that lack are NaN).
    - `.json`: a list of rows (null is NaN; blocks may differ in length), or what
      `deadhead score -o` wrote.
    - `.safetensors`: one 2-D tensor.
    - `.pkl`, `.pickle`, `.pt`, `.pth`, `.bin`: a tensor, array or list of rows, e.g. the 40x40
      tables of LLM-Interpret; nothing in the file is run (see `unpickle`).

    Args:
        path: the file.
        counts: heads per block of the model.
        key: which table, of a file with several: a criterion, or a name of a tensor.

    Raises:
        DataError: there is no such file, or its ending is not known.
        FileFormatError: it is not what its ending says, or not numbers.
        UnknownNameError: it has no table `key`.
        HeadError: the table is for another model.
        ScoreError: a score is infinite, or all are NaN.
    """
    path = as_path(path, "an importance table")
    reader = TABLES.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"cannot read {str(path)!r} as an importance table: its ending is none of"
            f" {', '.join(ENDINGS)}; convert it"
        )
    content = read_bytes(path, "an importance table")
    rows, table = _choose(reader(content, str(path), counts), key, str(path))
    values = _check(rows, counts, str(path))
    provenance: dict[str, Any] = {"file": path.name, "fingerprint": fingerprint(content)}
    if table is not None:
        provenance["key"] = table
    name = f"file:{path.name}" if key is None else f"file:{path.name}:{key}"
    return HeadScores(values, name, provenance)


def split_key(spec: str) -> tuple[Path, str | None]:
    """Split `FILE:KEY` into the file and which of its tables is meant; None where none is named.

    The file ends at the first colon behind the name of a file that is there, or behind an ending of
    tables; so a key may hold colons, as criteria with options do.
    """
    whole = as_path(spec, "a table of importance")
    if not whole.is_file():
        for colon in (at for at, letter in enumerate(spec) if letter == ":"):
            file = Path(spec[:colon])
            if file.is_file() or file.suffix.lower() in ENDINGS:
                return file, spec[colon + 1 :] or None
    return whole, None


def _choose(found: Any, key: str | None, name: str) -> tuple[Any, str | None]:
    """Take the one table of a file, or the one of several that was named."""
    if not isinstance(found, Mapping):
        if key is not None:
            raise DataError(f"{name!r} holds one table without a name; leave out the key {key!r}")
        return found, None
    tables = {str(table): rows for table, rows in found.items()}
    if key is not None and key not in tables:
        raise unknown_name(f"table of {name!r}", key, tables)
    flat = [table for table, rows in tables.items() if getattr(rows, "ndim", 2) == 2]
    if key is None and len(flat) != 1:
        held = one_line(", ".join(sorted(tables))) or "none"
        raise DataError(f"{name!r} holds {len(flat)} tables (of {held}); name one by its key")
    chosen = key if key is not None else flat[0]
    return tables[chosen], chosen


def _check(found: Any, counts: Sequence[int], name: str) -> tuple[np.ndarray, ...]:
    """Turn what was read into a row per block, and refuse what are no scores of this model."""
    rows = _rows(found, name)
    if rows == []:
        raise FileFormatError(f"{name!r} holds no rows; give one row of numbers per block")
    if rows is None or [len(row) for row in rows] != list(counts):
        if rows is not None:
            shape = blocks_of([len(row) for row in rows])
        else:
            shape = f"shape {tuple(getattr(found, 'shape', ()))}"
        raise HeadError(
            f"the table in {name!r} has {shape}, the model has {blocks_of(counts)};"
            " give the table of this model"
        )
    for block, row in enumerate(rows):
        if np.isposinf(row).any():  # -inf is the least there can be: a gradient of exactly 0
            at = int(np.flatnonzero(np.isposinf(row))[0])
            raise ScoreError(
                f"the table in {name!r} scores head {block}.{at} {row[at]}; give finite scores, or"
                " NaN for heads that are not scored"
            )
    if all(np.isnan(row).all() for row in rows):
        raise ScoreError(f"the table in {name!r} scores no head: every value is NaN")
    return tuple(rows)


def _rows(found: Any, name: str) -> list[np.ndarray] | None:
    """Return float64 rows; None if there are not two dimensions."""
    if isinstance(found, (torch.Tensor, np.ndarray)):
        return list(_numbers(found, name)) if found.ndim == 2 else None
    if not isinstance(found, (list, tuple)):
        raise _not_numbers(name, f"it holds a {type(found).__name__}")
    if not all(isinstance(row, (list, tuple, torch.Tensor, np.ndarray)) for row in found):
        return None
    rows = [_numbers(row, name) for row in found]
    return rows if all(row.ndim == 1 for row in rows) else None


def _numbers(found: Any, name: str) -> np.ndarray:
    """Return real numbers as float64, of any precision (bfloat16 too)."""
    if isinstance(found, torch.Tensor):
        wide = found.detach().float() if found.dtype == torch.bfloat16 else found.detach()
        try:
            found = wide.numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantized, float8
            what = f"{found.dtype} values, layout {found.layout}"
            raise _not_numbers(name, what) from error
    if isinstance(found, np.ndarray):
        if found.dtype.kind not in "fiu":
            raise _not_numbers(name, f"{found.dtype} values")
        return found.astype(np.float64)
    values = [np.nan if value is None else _item(value) for value in found]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _not_numbers(name, repr(value))
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise _not_numbers(name, "a whole number that no float holds") from error


def _item(value: Any) -> Any:
    """Read infinities written as text, and tensors of one number."""
    if isinstance(value, str):
        return _INFINITE.get(value, value)
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _not_numbers(name: str, what: str) -> FileFormatError:
    return FileFormatError(
        f"{name!r} is no table of real numbers ({one_line(what)}); give a row per block"
    )


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
    heads = {(float(block), float(head)) for block, n in enumerate(counts) for head in range(n)}
    columns = [header.index(column) for column in LONG_FORM]
    for row, fields in enumerate(records[1:], 1):
        if len(fields) != len(header):
            raise FileFormatError(f"row {row} of {name!r} has {len(fields)} fields; correct it")
        block, head = (_number(fields[at], name, row) for at in columns[:2])
        if (block, head) not in heads:
            raise HeadError(
                f"row {row} of {name!r} names block {block:g} head {head:g} again, or one that the"
                f" model lacks, which has {blocks_of(counts)}; name each once, of this model"
            )
        heads.remove((block, head))
        score = _number(fields[columns[2]], name, row, blank=np.nan)
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


TABLES: dict[str, TableReader] = {
    ".npy": npy_table,
    ".csv": csv_table,
    ".json": json_table,
    ".safetensors": safetensors_table,
    **dict.fromkeys(
        (".pkl", ".pickle", ".pt", ".pth", ".bin"),
        lambda content, name, _: unpickle_bytes(content, name),
    ),
}
ENDINGS = tuple(sorted(TABLES))


def blocks_of(counts: Sequence[int]) -> str:
    """Say how many heads a model has: `40 blocks of 40 heads`, or `blocks of [3, 4] heads`."""
    if counts and len(set(counts)) == 1:
        return f"{len(counts)} block{'s' * (len(counts) != 1)} of {counts[0]} heads"
    return f"blocks of {list(counts)} heads"


def _no_table(name: str, kind: str, error: Exception) -> FileFormatError:
    reason = one_line(error) or type(error).__name__
    return FileFormatError(f"{name!r} is not {kind} with a table of numbers ({reason}); convert it")
