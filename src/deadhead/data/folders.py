"""Folders of images and recordings: by class, without labels, and by split."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from deadhead.data.media import kind_of_file
from deadhead.data.rows import Rows
from deadhead.errors import DataError

TABLES = (".tsv", ".csv", ".jsonl", ".parquet")


def folders_in(folder: Path) -> dict[str, Path]:
    """List the folders inside a folder by lower-case name, hidden ones aside."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return {path.name.lower(): path for path in inside if not path.name.startswith(".")}


def has_tables(folder: Path) -> bool:
    """Whether a folder has tables; text and JSON files may be about its other files."""
    return any(path.is_file() and path.suffix.lower() in TABLES for path in folder.iterdir())


def read_media(folder: Path, source: str) -> Rows | None:
    """List the images or recordings of a folder as rows, with the class folder of each as label.

    Files right in the folder have no labels. Returns None if there are none of either.

    Raises:
        DataError: there are images and recordings, or files both in class folders and beside them.
    """
    files = _media_in(folder, deep=False)
    classes = {path.name: _media_in(path, deep=True) for path in folders_in(folder).values()}
    labeled = {name: found for name, found in classes.items() if found}
    if not files and not labeled:
        return None
    listed = [*files, *(path for found in labeled.values() for path in found)]
    kinds = {kind_of_file(path) for path in listed}
    if len(kinds) > 1:
        raise DataError(
            f"the folder {source!r} has both images and recordings; give a folder of one of them"
        )
    if files and labeled:
        raise DataError(
            f"the folder {source!r} has files in the folders {', '.join(labeled)[:80]} and beside"
            " them; put every file into the folder of its class, or none"
        )
    frame = pd.DataFrame({str(kinds.pop()): [str(path) for path in listed]}, dtype=object)
    if labeled:
        frame["label"] = [name for name, found in labeled.items() for _ in found]
    # a class is divided as a file is, so that each set has some of each
    parts = list(labeled.values()) or [files]
    origins = [(str(part[0].parent), row) for part in parts for row in range(len(part))]
    return Rows(frame, source, origins)


def _media_in(folder: Path, *, deep: bool) -> list[Path]:
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(
        path
        for path in found
        if kind_of_file(path) and path.is_file() and not path.name.startswith(".")
    )
