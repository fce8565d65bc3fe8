"""Which rows calibrate, select and test: of a file, a folder, a data set, or a hub id."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd

from deadhead.data.folders import folders_in, has_tables, read_media
from deadhead.data.formats import READERS, data_files, read_file, read_folder, split_slice
from deadhead.data.rows import Rows, rows_of
from deadhead.errors import DataError, unknown_name
from deadhead.files import as_path, one_line

ROLES = {
    "calibration": ("train", "calibration"),
    "selection": ("dev", "valid", "val", "validation", "selection", "validation_matched"),
    "test": ("test", "test_matched"),
}
BUNDLED = ("agreement", "sentiment", "text")

# of bundled data as much is made as is asked for, or this
_BUNDLED_SIZES = {"calibration": 512, "selection": 256, "test": 512}

Found = dict[str, Rows]
# a file, folder or data set by name; a table; or tables by the names of their splits
Spec = str | Rows | Mapping[str, Rows]


def find_splits(
    spec: Spec | Path | None,
    explicit: Mapping[str, str | Path | None],
    *,
    sizes: Mapping[str, int | None],
    seed: int = 0,
    labels: Iterable[str] = (),
) -> tuple[Found, list[str]]:
    """Find the rows of calibration, selection (which may lack) and test.

    What is given in `explicit` wins; the others come from `spec`. If `spec` has no splits, the
    first 80% of the rows of each of its files calibrate and the last 20% test; if one of the two
    is given in `explicit`, all of `spec` is the other.

    Returns:
        The rows by role, and notes on how they were divided.
    """
    found: Found = {}
    notes: list[str] = []
    if spec is not None:
        found, notes = _from_spec(
            str(spec) if isinstance(spec, Path) else spec, explicit, sizes, seed, labels
        )
    for role, given in explicit.items():
        if given is not None:
            found[role] = read_split(str(given), role, sizes, seed, labels)
    for role in ("calibration", "test"):
        if role not in found:
            raise DataError(
                f"{_named(spec)} has no {role} set (it has {', '.join(found) or 'none'});"
                f" name one with {role}, e.g. FILE or FILE[0:800]"
            )
    return found, notes


def _from_spec(spec, explicit, sizes, seed, labels) -> tuple[Found, list[str]]:
    wanted = [role for role in ROLES if explicit.get(role) is None]
    named, whole = _read(spec, wanted, sizes, seed, labels)
    if whole is None:
        return named, []
    others = [role for role in ("calibration", "test") if explicit.get(role) is not None]
    if others:
        return ({"test": whole} if others == ["calibration"] else {"calibration": whole}), []
    parts: dict[str, list[int]] = {"calibration": [], "test": []}
    sizes_of = pd.Series([file for file, _ in whole.origins])
    for positions in sizes_of.groupby(sizes_of, sort=False).indices.values():
        cut = round(len(positions) * 0.8)
        parts["calibration"] += positions[:cut].tolist()
        parts["test"] += positions[cut:].tolist()
    spec = whole.source if isinstance(spec, Rows) else spec
    if not all(parts.values()):
        raise DataError(
            f"{spec!r} has {len(whole)} rows, too few to divide; give 3 or more, or name"
            " calibration and test"
        )
    of_each = "" if sizes_of.nunique() == 1 else " of each file"
    note = f"no splits in {spec!r}: the first 80% of the rows{of_each} calibrate, the last 20% test"
    return {role: whole.take(rows) for role, rows in parts.items()}, [note]


def read_split(spec: Spec, role: str, sizes, seed, labels) -> Rows:
    """Read the one set that was named for a role."""
    named, whole = _read(spec, [role], sizes, seed, labels)
    if whole is not None:
        return whole
    if role not in named:
        raise DataError(
            f"{_named(spec)} has no {role} set; name a file, or FILE[0:800] for some rows"
        )
    return named[role]


def _read(spec: Spec, wanted, sizes, seed, labels) -> tuple[Found, Rows | None]:
    """Read the wanted splits of `spec`, or all its rows if it has none."""
    if isinstance(spec, Rows):
        return {}, spec
    if not isinstance(spec, str):
        return _of_splits(spec, "the data set", wanted, lambda part: part)
    if spec.startswith("bundled:"):
        name = spec.removeprefix("bundled:")
        return {role: _bundled(name, role, sizes[role], seed) for role in wanted}, None
    place, rows = split_slice(spec)

    def take(part: Rows) -> Rows:
        return part.sliced(rows, spec, spec)

    path = as_path(place, "data")
    if path.is_file():
        return {}, take(read_file(path, labels=labels))
    if path.is_dir() and not is_saved(path):
        known = {r: p for r, p in paths_of_splits(path).items() if r in wanted}
        if known:
            return {r: _whole(p, spec, take, labels) for r, p in known.items()}, None
        return {}, _whole(path, spec, take, labels)
    splits = _read_set(place, path)
    return _of_splits(splits, place, wanted, take)


def paths_of_splits(folder: Path) -> dict[str, Path]:
    """Find the file of each role in a folder, or its folder where there are no tables."""
    files = {path.stem.lower(): path for path in folder.iterdir() if path.suffix.lower() in READERS}
    known = by_role({name: path for name, path in sorted(files.items()) if path.is_file()})
    return known or ({} if has_tables(folder) else by_role(folders_in(folder)))


def _whole(path: Path, spec: str, take: Callable[[Rows], Rows], labels: Iterable[str]) -> Rows:
    """Read all rows of a file, or of a folder of tables, images or recordings."""
    if path.is_file():
        return take(read_file(path, labels=labels))
    media = None if has_tables(path) else read_media(path, str(path))
    if media is not None:
        return take(media)
    return read_folder(path, data_files(path), spec, take, labels=labels)


def _of_splits(
    splits: Mapping[str, Rows], source: str, wanted: Iterable[str], take: Callable[[Rows], Rows]
) -> tuple[Found, Rows | None]:
    """Return the wanted splits of a data set, or all its rows if it has none."""
    known = by_role(splits)
    if known:
        return {role: take(part) for role, part in known.items() if role in wanted}, None
    if len(splits) > 1:
        raise DataError(
            f"{source!r} has the splits {', '.join(splits)}; none is train, validation or test"
        )
    return {}, take(next(iter(splits.values())))


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _read_set(name: str, path: Path) -> dict[str, Rows]:
    """Read a saved data set, or one by its id (`ID:CONFIG`); its own code is never run."""
    hint = ""
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = [] if path.exists() else difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean {str(path.parent / near[0])!r}?" if near else ""
        is_id = name.count("/") <= 1 and not name.startswith((".", "/", "~")) and "[" not in name
        inside = path.parent.parts and path.parent.is_dir()
        if path.suffix.lower() in READERS or not is_id or inside:
            raise DataError(f"there is no file or folder {name!r}{hint or '; check the path'}")
    import datasets

    id_, _, config = name.partition(":")
    try:
        if path.is_dir():
            found = datasets.load_from_disk(str(path))
        else:
            found = datasets.load_dataset(id_, config or None)
    except Exception as error:  # httpx, huggingface_hub, arrow, builders: each has its own
        reason = one_line(error, longest=160).rstrip(". ") or type(error).__name__
        raise DataError(
            f"{name!r} is no file or folder of data{hint}, and no data set that can be loaded"
            f" ({reason}); check the path, or the id and the network"
        ) from error
    splits = found if isinstance(found, dict) else {"": found}
    return {str(split): rows_of(data, name, str(split)) for split, data in splits.items()}


def by_role(names: Mapping) -> dict:
    """Give the named splits (files or rows) their roles."""
    return {
        role: next(names[name] for name in known if name in names)
        for role, known in ROLES.items()
        if any(name in names for name in known)
    }


def _bundled(name: str, role: str, size: int | None, seed: int) -> Rows:
    if name not in BUNDLED:
        raise unknown_name("bundled data", name, BUNDLED)
    from deadhead import bundled

    n = size or _BUNDLED_SIZES[role]
    if name == "sentiment":
        frame = pd.DataFrame(bundled.sentiment(role, n, seed))
    elif name == "agreement":
        frame = pd.DataFrame(bundled.minimal_pairs(role, n, seed))
    else:
        frame = pd.DataFrame({"text": bundled.text(role, n, seed)})
    return Rows.of(frame, f"bundled:{name}", file=f"bundled:{name}:{role}")


def _named(spec: object) -> str:
    """Name a source in a message: tables have no name of their own."""
    return repr(str(spec)) if isinstance(spec, str | Path) else "the data set"
