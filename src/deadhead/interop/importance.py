"""Importance tables that someone else computed: one number per head, from many kinds of file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deadhead.errors import DataError, FileFormatError, HeadError, ScoreError, unknown_name
from deadhead.files import as_path, fingerprint, one_line, read_bytes
from deadhead.interop.tables import READERS, blocks_of
from deadhead.options.fields import check_arguments
from deadhead.types import HeadScores

ENDINGS = tuple(sorted(READERS))
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
    reader = READERS.get(path.suffix.lower())
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
    if isinstance(found, (torch.Tensor, np.ndarray)) and found.ndim != 2:
        return None
    if isinstance(found, (torch.Tensor, np.ndarray)):
        return list(_numbers(found, name))
    if not isinstance(found, (list, tuple)):
        raise FileFormatError(
            f"{name!r} holds a {type(found).__name__}, not a table; give rows of numbers, one per"
            " block"
        )
    rows = []
    for row in found:
        if isinstance(row, (list, tuple)):
            row = _listed(row, name)
        if not isinstance(row, (torch.Tensor, np.ndarray)) or row.ndim != 1:
            return None
        rows.append(_numbers(row, name))
    return rows


def _listed(row: Sequence[Any], name: str) -> np.ndarray:
    values = [np.nan if value is None else _item(value) for value in row]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            odd = one_line(repr(value), longest=40)
            raise FileFormatError(f"{name!r} has {odd} among its scores, which is not a number")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise FileFormatError(f"{name!r} has a whole number that no float holds") from error


def _item(value: Any) -> Any:
    """Read infinities written as text, and tensors of one number."""
    if isinstance(value, str):
        return _INFINITE.get(value, value)
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _numbers(found: torch.Tensor | np.ndarray, name: str) -> np.ndarray:
    """Return real numbers as float64, of any precision (bfloat16 too)."""
    try:
        if isinstance(found, torch.Tensor):
            if found.is_complex() or found.dtype == torch.bool:
                raise TypeError(f"{found.dtype} values")
            return found.detach().to(torch.float64).numpy()
        if found.dtype.kind not in "fiu":
            raise TypeError(f"{found.dtype} values")
        return found.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FileFormatError(
            f"{name!r} is no table of real numbers ({one_line(error)}); convert it"
        ) from error
