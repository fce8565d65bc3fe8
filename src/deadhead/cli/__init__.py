"""The command: parsing and printing only."""

from __future__ import annotations

import io
import os
import sys
import warnings
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deadhead.cli.console import fail, say, show
from deadhead.errors import DeadheadError


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            say("stopped; no file is left half written")
            raise typer.Exit(130) from stop


def command() -> typer.Typer:
    """Import every command and put them together."""
    from deadhead.cli.compare import compare
    from deadhead.cli.evaluate import evaluate
    from deadhead.cli.explain import explain
    from deadhead.cli.listing import names
    from deadhead.cli.maps import maps
    from deadhead.cli.plan import apply, plan
    from deadhead.cli.prune import demo, prune
    from deadhead.cli.score import score
    from deadhead.cli.similarity import similarity
    from deadhead.cli.sweep import sweep

    app = typer.Typer(
        name="deadhead",
        cls=_Group,
        help="Score, choose, mask and remove attention heads of Hugging Face transformers.\n\n"
        "Start with: deadhead demo",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def about(
        shown: Annotated[
            bool,
            typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
        ] = False,
    ) -> None:
        pass

    commands = (demo, prune, explain, compare, score, similarity, maps, plan, apply, evaluate)
    for function in (*commands, sweep):
        app.command()(function)
    app.command("list")(names)
    return app


def _version(shown: bool) -> None:
    if shown:
        show(version("deadhead"))
        raise typer.Exit


def main() -> None:
    """Import the command and run it."""
    run(command())


def run(app: typer.Typer) -> None:
    """Run the command: errors that are ours, or the disk's, are one line and exit code 2.

    Ctrl-C ends with a line and exit code 130.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _quiet()
    try:
        app()
    except DeadheadError as error:
        fail(error)
    except OSError as error:  # of a write: reading has errors of its own
        fail(f"{error}; check the path, its rights and the room on the disk")


def _quiet() -> None:
    """Leave the screen to us: no bars, no advice from transformers, nothing it cannot show."""
    from transformers.utils import logging

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|torch|datasets")
