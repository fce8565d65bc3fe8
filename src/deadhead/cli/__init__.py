"""The command: parsing and printing only."""

from __future__ import annotations

import os
import sys
import warnings

import typer
from rich.markup import escape

from deadhead.cli.console import ERR
from deadhead.errors import DeadheadError


def _app() -> typer.Typer:
    from deadhead.cli.listing import names
    from deadhead.cli.plan import apply, evaluate, plan
    from deadhead.cli.prune import demo, prune
    from deadhead.cli.score import score

    app = typer.Typer(
        name="deadhead",
        help="Score, choose, mask and remove attention heads of Hugging Face transformers.\n\n"
        "Start with: deadhead demo",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in (demo, prune, score, plan, apply, evaluate):
        app.command()(command)
    app.command("list")(names)
    return app


def main() -> None:
    """Run the command: errors that are ours are one line and exit code 2, no traceback.

    Ctrl-C ends with exit code 130.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _quiet()
    try:
        _app()()
    except DeadheadError as error:
        ERR.print("[bold red]error:[/]", escape(str(error)), highlight=False)
        sys.exit(2)


def _quiet() -> None:
    """Leave the screen to us: no bars and no advice from transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|torch|datasets")
