"""Options that several commands share, of models, data and output, and how values are read.

Those that say which heads go are in `choosing`, those of lm-eval in `lm_eval`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deadhead.errors import BudgetError

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Folder of a checkpoint (cut or uncut), a model id, or bundled:encoder,"
        " bundled:decoder.",
        show_default=False,
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        "-t",
        help="Data: a folder with train/dev/test files, a file (first 80% calibrate, last 20%"
        " test), FILE[0:800], a datasets id, or bundled:sentiment, bundled:agreement,"
        " bundled:text.",
        rich_help_panel="Data",
    ),
]
KindOption = Annotated[
    str | None,
    typer.Option(
        help="classification, minimal_pairs or perplexity; read off the columns by default.",
        rich_help_panel="Data",
    ),
]
CalibrationOption = Annotated[
    str | None, typer.Option(help="Data to score on, instead of --task's.", rich_help_panel="Data")
]
SelectionOption = Annotated[
    str | None,
    typer.Option(help="Data that stopping rules and distill look at.", rich_help_panel="Data"),
]
TrainOption = Annotated[
    str | None,
    typer.Option(
        help="Text without labels that distill trains on, instead of all calibration data.",
        rich_help_panel="Data",
    ),
]
TestOption = Annotated[
    str | None, typer.Option(help="Data to report on, once.", rich_help_panel="Data")
]
TextColumnOption = Annotated[
    str | None, typer.Option(help="Column of the text.", rich_help_panel="Data")
]
TextPairColumnOption = Annotated[
    str | None, typer.Option(help="Column of the second text of a pair.", rich_help_panel="Data")
]
LabelColumnOption = Annotated[
    str | None, typer.Option(help="Column of the label.", rich_help_panel="Data")
]
CalibrationSizeOption = Annotated[
    str,
    typer.Option(help="Examples to score on, drawn at random; or all.", rich_help_panel="Data"),
]
TestSizeOption = Annotated[
    str,
    typer.Option(help="Examples to report on, drawn at random; or all.", rich_help_panel="Data"),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(help="Examples per batch at most; by default by tokens.", rich_help_panel="Data"),
]
MaxLengthOption = Annotated[
    int | None, typer.Option(help="Tokens per example at most.", rich_help_panel="Data")
]
AlsoOption = Annotated[
    list[str] | None,
    typer.Option(
        help="One more test set to judge on, all of it, read by the same --kind and columns as"
        " --task; give several.",
        rich_help_panel="Data",
    ),
]
OverlapOption = Annotated[
    bool,
    typer.Option(
        "--allow-overlap",
        help="Let calibration, selection and test share examples.",
        rich_help_panel="Data",
    ),
]


def _seed(value: int) -> int:
    if value < 0:
        raise BudgetError(f"seed {value} cannot be used; give 0 or more")
    return value


SeedOption = Annotated[
    int, typer.Option(callback=_seed, help="Seed of everything that draws: 0 or more.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16, float16 or float64; by default as saved.")
]
RemoteCodeOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout instead of tables.")
]
OutputFolderOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder to write; by default below runs/."),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the interrupted run of the same options.")
]


def amount(text: str, *, goal: str = "dropped") -> int | float:
    """Read an amount of heads that are to be `goal`: `36`, `50%` or `0.5`.

    Raises:
        BudgetError: it is neither a count nor a percentage nor a fraction.
    """
    try:
        if text.endswith("%"):
            value: int | float = float(text[:-1]) / 100  # NaN is refused below
        else:
            value = int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError as error:
        raise BudgetError(
            f"{text!r} is not an amount of heads; write a count (36), a percentage (50%) or a"
            " fraction (0.5)"
        ) from error
    if not (0 < value <= 1 if isinstance(value, float) else value > 0):
        raise BudgetError(
            f"{text!r} of the heads cannot be {goal}; write 1% to 100%, or a count of 1 or more"
        )
    return value


def size(text: str) -> int | None:
    """Read a number of examples, or `all`.

    Raises:
        BudgetError: it is neither.
    """
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise BudgetError(f"{text!r} is not a number of examples; write 1 or more, or all")
    return int(text)


def names(text: str) -> list[str]:
    """Read a list with commas, each name once; `none` is empty."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    return [] if found == ["none"] else list(dict.fromkeys(found))


def output_folder(output: Path | None, *parts: str) -> Path:
    """Return the folder to write to: `output`, or a name made of `parts`, below runs/."""
    if output is not None:
        return output
    name = "-".join(p.strip("./").replace("/", "-").replace(":", "-") for p in parts if p)
    return Path("runs") / name
