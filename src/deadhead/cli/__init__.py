"""The command: parsing and printing only."""

from __future__ import annotations

import os
import warnings

import typer

from deadhead.cli.console import fail
from deadhead.errors import DeadheadError


def _app() -> typer.Typer:
    from deadhead.cli.evaluate import evaluate
    from deadhead.cli.listing import names
    from deadhead.cli.plan import apply, plan
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
    """Run the command: errors that are ours, or the disk's, are one line and exit code 2.

    Ctrl-C ends with exit code 130.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _quiet()
    try:
        _app()()
    except DeadheadError as error:
        fail(error)
    except OSError as error:  # of a write: reading has errors of its own
        fail(f"{error}; check the path, its rights and the room on the disk")


def _quiet() -> None:
    """Leave the screen to us: no bars and no advice from transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|torch|datasets")
