"""What people see: tables on stdout, progress and messages on stderr, and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from deadhead.files import printable
from deadhead.runs.run_settings import Watch


class _PrintableConsole(Console):
    """Prints names and texts of users with control characters as escapes."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render; the control codes of rich itself are segments of their own and stay."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n\t"), segment.style)


# no markup: names and texts of users may hold brackets, and print as they are
OUT = _PrintableConsole(markup=False, emoji=False)  # a pipe is 80 columns wide, or COLUMNS
ERR = _PrintableConsole(stderr=True, soft_wrap=True, markup=False, emoji=False, highlight=False)


def say(*what: Any) -> None:
    """Print a message to stderr, where it does not disturb --json."""
    ERR.print(*what)


def fail(message: object) -> NoReturn:
    """Print an error to stderr, in one line, and end with exit code 2."""
    ERR.print(Text("error:", style="bold red"), printable(" ".join(str(message).split("\n"))))
    sys.exit(2)


def show(*what: Any) -> None:
    """Print results to stdout: tables fit the terminal, lines of text are never broken."""
    for item in what:
        OUT.print(item, soft_wrap=isinstance(item, str))


def files_of(folder: Path, *names: str) -> dict[str, Any]:
    """Return what the JSON object of every command that writes a folder begins with."""
    files = {name.split(".")[0]: str(folder / name) for name in names if (folder / name).exists()}
    return {"output": str(folder), "files": files}


def load_line(folder: Path, model: Mapping[str, Any]) -> str:
    """Say where a model lies and how it is loaded."""
    needs = "import deadhead, then " if model["needs_deadhead"] else ""
    return f"model: {folder}  ({needs}{model['auto_class']}.from_pretrained)"


def show_json(value: Any) -> None:
    """Print one JSON object to stdout; what is not finite becomes null."""
    from deadhead.report.summary import plain

    sys.stdout.write(json.dumps(plain(value), indent=1) + "\n")


@contextmanager
def progress_bar(what: str, total: int | None, *, hidden: bool = False) -> Iterator[Any]:
    """Show a bar with an estimate of the time that is left; gives a function to advance it.

    On a terminal only: a log file gets no bars, and neither does who asked for JSON.
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
    hidden = hidden or not ERR.is_terminal
    with Progress(*columns, console=ERR, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=total)

        def advance(step: int = 1, *, description: str | None = None) -> None:
            bar.update(task, advance=step, description=description)

        advance.total = lambda n: bar.update(task, total=n)  # type: ignore[attr-defined]
        yield advance


@contextmanager
def watching(what: str, output: Path, *, hidden: bool, trains: bool = False) -> Iterator[Watch]:
    """Show a bar and the messages of a run; say after Ctrl-C where it waits, and exit with 130."""
    from deadhead.runs.journal import partial_folder

    with progress_bar(what, None, hidden=hidden) as advance:
        try:
            yield Watch(
                on_total=advance.total,
                on_work=lambda what: advance(description=what),
                on_note=say,
            )
        except KeyboardInterrupt as stop:
            waits = partial_folder(output)
            lost = "only training begins anew" if trains else "nothing is lost"
            say(
                f"stopped; {lost}: what is done is in {str(waits)!r}; continue with the same"
                " command and --resume, or remove that folder"
                if waits.exists()
                else "stopped before anything was done"
            )
            raise typer.Exit(130) from stop
