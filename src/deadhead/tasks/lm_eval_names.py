"""Finding lm-eval's tasks by name, and saying in one line why one cannot be used."""

from __future__ import annotations

import difflib
import functools
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deadhead.errors import DataError, FileFormatError, MissingDependencyError, UnknownNameError


def check_lm_eval_tasks(names: Sequence[str], include_path: Path | None = None) -> tuple[str, ...]:
    """Find tasks, groups and tags by name before any model is loaded; return their names.

    A name may be a list (`hellaswag,arc_easy`) or a pattern (`blimp_*`). Data sets are not looked
    at: `run_lm_eval` loads them.

    Cost: reading every task file of lm-eval once per process (14,000, about 10 s), unless all
        names and the members of their groups are found in `include_path`.

    Raises:
        MissingDependencyError: lm-eval is not installed.
        DataError: no name is given, or `include_path` is not a folder of task files.
        FileFormatError: a task file in `include_path` cannot be read.
        UnknownNameError: a task is in neither place.
    """
    return find_tasks(names, include_path)[0]


def find_tasks(names: Sequence[str], include_path: Path | None) -> tuple[tuple[str, ...], Any]:
    """Do as `check_lm_eval_tasks`, and return the manager that makes the tasks too."""
    asked = list(dict.fromkeys(n.strip() for part in names for n in part.split(",") if n.strip()))
    if not asked:
        raise DataError("no lm-eval task is named; give one or more, such as hellaswag,arc_easy")
    needs_lm_eval()
    files = _task_files(include_path) if include_path is not None else ()
    manager = _manager(include_path, files, False) if files else None
    if manager is None or not _holds_all(manager, asked):
        manager = _manager(include_path, files, True)
    found = {name: manager.match_tasks([name]) for name in asked}
    for name, matches in found.items():
        if not matches:
            raise _unknown(name, manager.all_tasks)
    return tuple(dict.fromkeys(name for matches in found.values() for name in matches)), manager


def make_tasks(names: Sequence[str], manager) -> list[Any]:
    """Make the tasks and groups of names, which loads their data sets."""
    made = []
    for name in names:
        try:
            found = manager.load([name])
        except Exception as error:  # datasets, httpx, jinja2, yaml, dataclasses: each has its own
            raise _refusal(name, manager, error) from error
        for task_name, task in found["tasks"].items():
            if getattr(task, "UNSAFE_CODE", False):
                raise DataError(
                    f"lm-eval task {task_name!r} runs code that the model writes, which deadhead"
                    " does not; leave it out, or run lm-eval itself on a saved model"
                )
        groups = found.get("groups") or {}
        made += [groups[name]] if name in groups else list(found["tasks"].values())
    return made


def needs_lm_eval() -> None:
    """Say how to install lm-eval if it is not there."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "evaluation with lm-eval needs lm-eval, which is not installed;"
            " pip install 'deadhead[eval]'"
        ) from error


_GET_DATA = (
    "load it once with the network (HF_HUB_OFFLINE=0), or give a task file with data of your own"
    " (--include-path)"
)


@functools.cache
def _reader() -> Any:
    """Make a reader of task files that does not import the functions that they name."""
    import yaml

    reader = type("TaskFileLoader", (yaml.SafeLoader,), {})
    reader.add_constructor("!function", lambda _, node: str(node.value))
    return reader


def _task_files(folder: Path) -> tuple[tuple[Path, int], ...]:
    """Read every task file once, since lm-eval passes over broken ones in silence.

    Returns:
        each file with its time of change.
    """
    if not folder.is_dir():
        raise DataError(
            f"{str(folder)!r} is not a folder; --include-path wants one of task files (*.yaml)"
        )
    files = sorted(p for p in folder.glob("**/*.yaml") if ".ipynb_checkpoints" not in p.parts)
    if not files:
        raise DataError(f"{str(folder)!r} holds no task file; their names end in .yaml")
    for file in files:
        _check_file(file)
    return tuple((file, file.stat().st_mtime_ns) for file in files)


def _check_file(file: Path) -> None:
    import yaml

    try:
        read = yaml.load(file.read_bytes(), _reader())
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise FileFormatError(f"{str(file)!r} is not YAML:{where} {problem}; correct it") from error
    if not isinstance(read, dict):
        raise FileFormatError(
            f"{str(file)!r} is not a task file: it holds {type(read).__name__}, not keys and"
            " values; correct it"
        )
    includes = read.get("include") or []
    for other in includes if isinstance(includes, list) else [includes]:
        if not (file.parent / str(other)).is_file():
            raise FileFormatError(f"{str(file)!r} includes {other!r}, which is missing; correct it")


@functools.lru_cache(maxsize=4)
def _manager(include_path: Path | None, files: tuple, shipped: bool):
    """Index task files, once per process; `files` makes a changed folder another one."""
    from lm_eval.tasks import TaskManager

    return TaskManager(
        include_path=None if include_path is None else str(include_path), include_defaults=shipped
    )


def _holds_all(manager, names: Sequence[str]) -> bool:
    """Whether the index has these names and all that their groups name."""
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        entry = manager.task_index.get(name)
        if entry is None:
            return False
        members = (entry.cfg or {}).get("task")
        for member in members if isinstance(members, list) else []:
            waiting.append(member if isinstance(member, str) else str(member.get("task")))
    return True


def _unknown(name: str, known: Sequence[str]) -> UnknownNameError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return UnknownNameError(
        f"lm-eval task {name!r} is not known{hint}; `lm-eval ls tasks` lists all {len(known)}, and"
        " --include-path adds your own"
    )


def _refusal(name: str, manager, error: Exception) -> DataError:
    """Say which data set of which task is missing, or that the task file is not one."""
    reason = error.__cause__ if type(error).__name__ == "DatasetGenerationError" else None
    why = first_line(reason or error)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "download" and "self" in frame.f_locals:
            # a group fails in one of its tasks, which only the frame knows
            task = frame.f_locals["self"]
            config = getattr(task, "config", None)
            of = getattr(config, "task", None) or name
            files = (getattr(config, "dataset_kwargs", None) or {}).get("data_files")
            data = files or getattr(task, "DATASET_PATH", None) or "of its own"
            part = getattr(task, "DATASET_NAME", None)
            advice = "check the path and the file" if files else _GET_DATA
            return DataError(
                f"lm-eval task {of!r}{f' (of {name!r})' if of != name else ''} needs the data set"
                f" {data!r}{f' ({part})' if part else ''}, which cannot be loaded ({why}); {advice}"
            )
    file = manager.task_index[name].yaml_path
    where = f" from {str(file)!r}" if file else ""
    return FileFormatError(
        f"lm-eval task {name!r} cannot be made{where} ({type(error).__name__}: {why});"
        " correct the task file, or its data"
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to a length that can be read."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(". ")
