"""Data sets of the `datasets` library: saved folders, and ids on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from deadhead.data.rows import Rows
from deadhead.errors import DataError, MissingDependencyError


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved(folder: Path) -> dict[str, Rows]:
    """Read a folder that `save_to_disk` wrote; one without splits has the split `""`."""
    datasets = _library()
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # arrow, json, fsspec: each has its own
        raise DataError(
            f"cannot read the saved data set {str(folder)!r}: {_first_line(error)}; save it again"
        ) from error
    return _splits(found, str(folder))


def read_hub(name: str, hint: str = "") -> dict[str, Rows]:
    """Read all splits of a data set by its id; `ID:CONFIG` chooses a configuration.

    Code that comes with a data set is never run.
    """
    datasets = _library()
    id_, _, config = name.partition(":")
    try:
        found = datasets.load_dataset(id_, config or None)
    except Exception as error:  # httpx, huggingface_hub, arrow, builders: each has its own
        raise DataError(
            f"{name!r} is not a file or folder{hint}, and not a data set that can be loaded"
            f" ({_first_line(error)}); check the path, or the id and the network"
        ) from error
    return _splits(found, name)


def _splits(found, source: str) -> dict[str, Rows]:
    splits = found if isinstance(found, dict) else {"": found}
    return {split: rows_of(data, source, split) for split, data in splits.items()}


def rows_of(data, source: str, split: str) -> Rows:
    """Take the rows of a data set, with the names of its classes."""
    names = {
        column: list(feature.names)
        for column, feature in (data.features or {}).items()
        if type(feature).__name__ == "ClassLabel"
    }
    label = f"{source} ({split})" if split else source
    return Rows.of(data.to_pandas(), label, file=f"{source}:{split}", class_names=names)


def _library():
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "reading a data set by its id needs datasets; run: pip install datasets"
        ) from error
    return datasets


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:160].rstrip(". ")
