"""Rows of a table, and where they were read."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from deadhead.data.formats import READERS
from deadhead.display import Brief
from deadhead.errors import DataError, unknown_name
from deadhead.files import as_path, read_bytes

# what makes a table one of minimal pairs
PAIR_COLUMNS = {"sentence_good", "sentence_bad"}

_SLICE = re.compile(r"(?P<path>.+)\[(?P<start>-?\d*):(?P<stop>-?\d*)\]")


class Columns(NamedTuple):
    """The columns that the user named; None is found by its usual name."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Rows(Brief):
    """A table of text, and for each row where it was read.

    Attributes:
        frame: the columns.
        source: where the rows came from, for people.
        origins: (file, row) of each row, to tell rows that are given twice.
        class_names: names behind the whole numbers of a column, for `datasets` sets.
    """

    frame: pd.DataFrame
    source: str
    origins: Sequence[tuple[str, int]]
    class_names: Mapping[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        source: str,
        *,
        file: str | None = None,
        class_names: Mapping[str, list[str]] | None = None,
    ) -> Rows:
        """Take all rows of a frame as those of one file."""
        origins = [(file or source, row) for row in range(len(frame))]
        return cls(frame, source, origins, class_names or {})

    @classmethod
    def concatenate(cls, parts: Sequence[Rows], source: str) -> Rows:
        """Put the rows of several files below each other."""
        frame = pd.concat([p.frame for p in parts], ignore_index=True)
        return cls(frame, source, [o for p in parts for o in p.origins], parts[0].class_names)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [str(name) for name in self.frame.columns]

    def take(self, rows: Sequence[int], source: str | None = None) -> Rows:
        """Take the rows at these positions, in that order."""
        origins = [self.origins[row] for row in rows]
        frame = self.frame.iloc[list(rows)].reset_index(drop=True)
        return Rows(frame, source or self.source, origins, self.class_names)

    def sliced(self, rows: slice | None, spec: str, source: str | None = None) -> Rows:
        """Take the rows that `FILE[0:800]` names; `spec` is for messages."""
        if rows is None:
            return self
        start, stop, _ = rows.indices(len(self))
        if start >= stop:
            raise DataError(f"{spec!r} takes none of the {len(self)} rows of {self.source!r}")
        return self.take(range(start, stop), source)

    def first_column(self, names: Iterable[str]) -> str | None:
        """Find the first of `names` that is a column."""
        return next((name for name in names if name in self.columns), None)

    def values(self, column: str) -> list[Hashable]:
        """Return a column as Python values."""
        if column not in self.columns:
            raise unknown_name("column", column, self.columns)
        values = self.frame[column]
        missing = np.flatnonzero(values.isna().to_numpy())
        if len(missing):
            raise DataError(
                f"{self._place(missing[0])} has no {column!r}; {len(missing)} of {len(self)} rows"
                " lack it; fill it in or remove them"
            )
        return values.tolist()

    def texts(self, column: str) -> list[str]:
        """Return a column of text."""
        values = self.values(column)
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise DataError(
                    f"{self._place(row)} has {value!r} as {column!r}, which is not text;"
                    f" choose a text column of {', '.join(self.columns)}"
                )
        return values  # type: ignore[return-value]

    def filled_texts(self, column: str) -> list[str]:
        """Return a column of text, none of it blank."""
        values = self.texts(column)
        blank = [row for row, value in enumerate(values) if not value.strip()]
        if blank:
            raise DataError(
                f"{self._place(blank[0])} has a blank {column!r}; {len(blank)} of {len(self)} rows"
                " have one; fill it in or remove them"
            )
        return values

    def _place(self, row: int) -> str:
        file, index = self.origins[row]
        return f"row {index} of {file!r}"


def split_slice(spec: str) -> tuple[str, slice | None]:
    """Split `FILE[0:800]` into the path and the slice, which is None where there is none."""
    found = None if as_path(spec, "data").exists() else _SLICE.fullmatch(spec)
    if found is None:
        return spec, None
    ends = [int(end) if end else None for end in (found["start"], found["stop"])]
    return found["path"], slice(*ends)


def read_file(path: Path, *, labels: Iterable[str] = ()) -> Rows:
    """Read one file by its ending.

    A TSV or CSV file needs no header: see `formats.name_columns`.
    """
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
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in READERS)


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
            if "UID" not in rows.columns:
                rows.frame["UID"] = path.stem
            rows = replace(rows, frame=rows.frame[[*sorted(PAIR_COLUMNS), "UID"]])
        parts.append(rows)
    odd = next((p for p in parts if set(p.columns) != set(parts[0].columns)), None)
    if odd is not None:
        raise DataError(
            f"the files of {str(folder)!r} have different columns: {parts[0].source!r} has"
            f" {', '.join(parts[0].columns)}, {odd.source!r} has {', '.join(odd.columns)};"
            " give one of them, or name them train, dev and test"
        )
    return Rows.concatenate(parts, source)
