"""From what the user named to rows with prompts; the predecessor's task files are read here."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from deadhead.data import hub
from deadhead.data.formats import READERS, quoted_records
from deadhead.data.rows import Rows, data_files, read_file, split_slice
from deadhead.data.splits import read_split
from deadhead.errors import DataError, FileFormatError
from deadhead.files import as_path, lines_of, read_text

PROMPT_COLUMNS = ("prompt", "text", "sentence_good", "sentence")


def read_prompts(spec: str, *, n: int | None, seed: int, column: str | None) -> list[Rows]:
    """Read the rows of each file that `spec` names; `n` and `seed` are for bundled data."""
    if spec.startswith("bundled:"):
        return [read_split(spec, "calibration", {"calibration": n}, seed, ())]
    place, rows = split_slice(spec)
    path = as_path(place, "prompts")
    if path.is_dir() and not hub.is_saved(path):
        files = data_files(path)
        if not files:
            known = ", ".join(sorted(READERS))
            raise DataError(f"the folder {place!r} has no prompt files; supported are {known}")
    elif path.is_file():
        files = [path]
    else:
        return [read_split(spec, "calibration", {"calibration": None}, seed, ())]
    return [read_prompt_file(file, column=column).sliced(rows, spec) for file in files]


def read_prompt_file(path: Path, *, column: str | None = None) -> Rows:
    """Read one file of prompts by its ending; a `.tsv` as `read_task_file` does."""
    return read_task_file(path, column=column) if path.suffix.lower() == ".tsv" else read_file(path)


def read_task_file(path: Path, *, column: str | None = None) -> Rows:
    r"""Read tab-separated prompts: `prompt TAB id` without a header, or a table with one.

    The task files of explainabloomity quote a prompt that holds quotes or line ends, `""` being a
    quote within. Where quotes do not come in such pairs they are plain text.

    The first line is a header if it names `column` or one of `PROMPT_COLUMNS`, or if it has
    several fields that are all plain words; no prompt with an id looks so.

    Source: tasks/*.tsv of explainabloomity, which pandas wrote and read.
    """
    text = read_text(path, "prompts", limit=None)
    records = quoted_records(text, "\t")
    if len({len(record) for record in records}) != 1:
        records = [line.split("\t") for line in lines_of(text) if line.strip()]
    if len({len(record) for record in records}) > 1:
        raise FileFormatError(
            f"the lines of {str(path)!r} differ in their number of fields; write prompt TAB id on"
            " each"
        )
    first = records[0] if records else []
    known = {column, *PROMPT_COLUMNS}
    named = bool(known & set(first)) or (len(first) > 1 and all(f.isidentifier() for f in first))
    names = first if named else ["prompt", "id", *map(str, range(2, len(first)))][: len(first)]
    if len(set(names)) < len(names):
        raise FileFormatError(f"{str(path)!r} has a header with a name twice; rename one")
    frame = pd.DataFrame(records[named:], columns=pd.Index(names), dtype=object)
    if frame.empty:
        raise DataError(f"{str(path)!r} has no prompts; give a file with at least one")
    return Rows.of(frame, str(path), file=str(path.resolve()))
