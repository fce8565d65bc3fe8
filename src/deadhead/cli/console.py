"""What people see: tables on stdout, progress and messages on stderr, and errors in one line."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_WIDE = 240  # a file or pipe cuts no table off

OUT = Console(width=None if sys.stdout.isatty() else _WIDE)
ERR = Console(stderr=True, soft_wrap=True)


def typed_command() -> str:
    """Return the command as it was typed, without --resume: what makes the run again."""
    return shlex.join(["deadhead", *(a for a in sys.argv[1:] if a != "--resume")])


def say(*what: Any) -> None:
    """Print a message to stderr, where it does not disturb --json."""
    ERR.print(*what)


def show(*what: Any) -> None:
    """Print results to stdout."""
    for item in what:
        OUT.print(item)


def show_json(value: Any) -> None:
    """Print one JSON object to stdout."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Any]:
    """Show a bar with an estimate of the time that is left; gives a function to advance it.

    On a terminal only: a log file gets no bars.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def advance(step: int = 1, *, description: str | None = None) -> None:
            bar.update(task, advance=step, description=description)

        advance.total = lambda n: bar.update(task, total=n)  # type: ignore[attr-defined]
        yield advance
