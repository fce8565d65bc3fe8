"""The command: parsing and printing only. Help imports neither torch nor transformers."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deadhead.cli.console import fail, say, show
from deadhead.cli.options import Screen, command_of
from deadhead.errors import DeadheadError

UsageError: Any = typer.BadParameter.__base__  # of click, wherever Typer keeps it


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            say("stopped; no file is left half written")
            raise typer.Exit(130) from stop


def command() -> typer.Typer:
    """Put all commands together."""
    from deadhead.cli.check import check
    from deadhead.cli.evaluate import evaluate_command
    from deadhead.cli.explain import explain_run
    from deadhead.cli.export import export_command
    from deadhead.cli.plan import apply, plan
    from deadhead.cli.prune import demo, prune_command
    from deadhead.cli.score import score_command
    from deadhead.cli.similarity import maps, similarity
    from deadhead.cli.sweep import compare, sweep_command

    app = typer.Typer(
        name="deadhead",
        cls=_Group,
        help="Score, choose, mask and remove attention heads of Hugging Face transformers.\n\n"
        "Start with: deadhead demo",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=False,
    )

    @app.callback()
    def about(
        shown: Annotated[
            bool,
            typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
        ] = False,
    ) -> None:
        pass

    for panel, commands in {
        "Start here": {"demo": demo, "prune": prune_command},
        "One step at a time": {
            "score": score_command,
            "plan": plan,
            "apply": apply,
            "evaluate": evaluate_command,
            "export": export_command,
        },
        "Look closer": {
            "check": check,
            "explain": explain_run,
            "compare": compare,
            "sweep": sweep_command,
            "similarity": similarity,
            "maps": maps,
            "list": list_names,
        },
    }.items():
        for name, function in commands.items():
            app.command(name, rich_help_panel=panel)(command_of(function))
    return app


def list_names(screen: Screen) -> None:
    """List criteria, strategies, groupings, actions, tasks, model types and policies."""
    from deadhead.pruning import names
    from deadhead.report.page import TextTable
    from deadhead.similarity import METRICS
    from deadhead.strategies.rules import SCOPES

    known = {
        "criteria": names.criteria(),
        "strategies": names.strategies(),
        "repairs": names.repairs(),
        "groupings": names.groupings(),
        "distances": dict.fromkeys(METRICS, ""),
        "budgets": names.budgets(),
        "actions": names.actions(),
        "losses": names.losses(),
        "tasks": names.tasks(),
        "model types": names.architectures(),
        "gqa policies": names.gqa_policies(),
        "scopes": dict.fromkeys(SCOPES, ""),
        "bundled models": {
            "bundled:encoder": "task bundled:sentiment",
            "bundled:decoder": "tasks bundled:agreement, bundled:text",
        },
    }
    tables = []
    for kind, entries in known.items():
        rows = [[name, line] for name, line in entries.items()]
        if not any(entries.values()):
            rows = [[", ".join(entries), ""]]
        tables.append(TextTable((kind, ""), rows, words=(kind, ""), keys=2))
    screen.end({kind: sorted(entries) for kind, entries in known.items()}, *tables)


def _version(shown: bool) -> None:
    if shown:
        show(version("deadhead"))
        raise typer.Exit


def main() -> None:
    """Put the commands together and run the one that was typed."""
    run(command())


def run(app: typer.Typer) -> None:
    """Run the command: an error of ours, or of the disk, is one line and exit code 2.

    Ctrl-C ends with a line and exit code 130.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app(prog_name="deadhead", standalone_mode=False)
    except UsageError as error:
        if not str(error.format_message()):  # without arguments: the help has been printed
            sys.exit(2)
        fail(f"{error.format_message().rstrip('.')}; {_help_of(error)} lists what there is")
    except DeadheadError as error:
        fail(error)
    except OSError as error:  # of a write: reading has errors of its own
        fail(f"{error}; check the path, its rights and the room on the disk")
    sys.exit(code if isinstance(code, int) else 0)


def _help_of(error: Any) -> str:
    path = "deadhead" if error.ctx is None else error.ctx.command_path
    return f"'{path} --help'"
