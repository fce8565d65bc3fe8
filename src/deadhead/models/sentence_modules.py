"""The modules of a sentence-transformers folder, behind its base model, as plain values."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from deadhead.errors import CheckpointError, FileFormatError
from deadhead.files import decode, one_line, parse_json, read_bytes

MODULES = "modules.json"


def module_folders(folder: Path) -> list[str]:
    """List the folders of sentence-transformers modules that `modules.json` names, if it is there.

    The base model itself is at the top.

    Raises:
        CheckpointError: it is not a list of modules inside the folder.
    """
    return [module["path"] for module in modules_of(folder) if module["path"] not in ("", ".")]


def modules_of(folder: Path) -> list[dict[str, str]]:
    """Read the `type` and `path` of each module of a sentence-transformers model, in their order.

    A folder without `modules.json` has none.

    Raises:
        CheckpointError: it is not a list of modules inside the folder.
    """
    file = folder / MODULES
    if not file.is_file():
        return []
    try:
        found = parse_json(decode(read_bytes(file, MODULES), MODULES), repr(MODULES), "modules")
    except FileFormatError as error:
        raise CheckpointError(str(error)) from error
    modules = found if isinstance(found, list) else [found]
    wrong = next((module for module in modules if not _is_module(module)), None)
    if wrong is not None:
        raise CheckpointError(
            f"{MODULES} of {folder.name!r} has {one_line(repr(wrong), longest=80)}, which is no"
            " module with a type and a path inside the folder; copy it again from where it was"
            " written"
        )
    return modules


def _is_module(module: object) -> bool:
    if not isinstance(module, dict):
        return False
    path, kind = module.get("path"), module.get("type")
    if not isinstance(path, str) or not isinstance(kind, str):
        return False
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
