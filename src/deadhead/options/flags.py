"""Options that settings of several nouns share: one flag, one value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deadhead.options.amounts import parse_seed, parse_size
from deadhead.options.fields import option
from deadhead.options.panels import DATA, MODEL, OUTPUT

NEW_FOLDER = Path("runs/...")  # until it is known what the folder is called


def seed_option() -> Any:
    """Make a field for `--seed`."""
    return option(
        default=0,
        help="Seed of everything that is random: 0 or more.",
        panel=DATA,
        parse=parse_seed,
        raw=int,
    )


def size_option(default: int | None, shown: str, help: str, *flags: str, **more: Any) -> Any:
    """Make a field for a number of examples, or all, which is None."""
    return option(default=default, shown=shown, help=help, flags=flags, parse=parse_size, **more)


def max_length_option() -> Any:
    """Make a field for `--max-length`."""
    return option(default=None, help="Tokens per example at most.", panel=DATA)


def batch_size_option() -> Any:
    """Make a field for `--batch-size`."""
    return option(
        default=None, help="Examples per batch at most; by default by tokens.", panel=DATA
    )


def strict_option() -> Any:
    """Make a field for `--strict`."""
    return option(
        default=False,
        help="Refuse what otherwise ends in a note: prompts longer than the model's context; fewer"
        " calibration tokens than a repair has unknowns; blocks whose heads give the same output"
        " for every token.",
        panel=DATA,
        group="strict",
    )


def trust_option() -> Any:
    """Make a field for `--trust-remote-code`."""
    return option(default=False, help="Run code that comes with the checkpoint.", panel=MODEL)


def folder_option() -> Any:
    """Make a field for the folder to write; see `run_folder`."""
    return option(
        default=NEW_FOLDER,
        flags=("--output", "-o"),
        help="Folder to write. By default one below runs/ that is named after the options.",
    )


def run_folder(output: Path, *parts: str) -> Path:
    """Return the folder of a run: `output`, or if that is not set, one that is named by `parts`."""
    if output != NEW_FOLDER:
        return output
    name = "-".join(p.strip("./").replace("/", "-").replace(":", "-") for p in parts if p)
    return NEW_FOLDER.with_name(name)


def speed_option(help: str) -> Any:
    """Make a field for `--speed`."""
    return option(default=True, flags=("--speed/--no-speed",), help=help, panel=OUTPUT)
