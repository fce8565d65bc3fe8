"""The options that several commands share, and how their values are read."""

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
    str | None, typer.Option(help="Data that stopping rules look at.", rich_help_panel="Data")
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
OverlapOption = Annotated[
    bool,
    typer.Option(
        "--allow-overlap",
        help="Let calibration, selection and test share examples.",
        rich_help_panel="Data",
    ),
]
CriterionOption = Annotated[
    str,
    typer.Option(
        "--criterion",
        "-c",
        help="How to score heads; 'deadhead list' names all. Options follow colons:"
        " attention_entropy:normalized=true.",
        rich_help_panel="Choosing",
    ),
]
LossOption = Annotated[
    str | None,
    typer.Option(
        help="Loss of gradient criteria: task (needs labels) or logit_norm. By default task if a"
        " criterion among them is defined on it (taylor), else logit_norm.",
        rich_help_panel="Choosing",
    ),
]
StrategyOption = Annotated[
    str,
    typer.Option(
        "--strategy",
        "-s",
        help="greedy (score again after every move), one_shot, or clusters (one head stands for"
        " each group with alike attention maps).",
        rich_help_panel="Choosing",
    ),
]
ScoresOption = Annotated[
    Path | None, typer.Option(help="A scores.json; without it the heads are scored now.")
]
HeadsOption = Annotated[
    str,
    typer.Option(
        "--heads",
        help="How many to drop: 36, 50%, or 0.5; heads of a cut model that are gone already count.",
        rich_help_panel="Choosing",
    ),
]
PerStepOption = Annotated[
    str, typer.Option(help="Heads that one move drops: 1, 5%.", rich_help_panel="Choosing")
]
InverseOption = Annotated[
    bool,
    typer.Option("--inverse", help="Drop the highest scores first.", rich_help_panel="Choosing"),
]
ScopeOption = Annotated[
    str,
    typer.Option(
        help="global, or per_block: the same number in every block.", rich_help_panel="Choosing"
    ),
]
KeepOption = Annotated[
    int, typer.Option(help="Heads that every block keeps.", rich_help_panel="Choosing")
]
GqaOption = Annotated[
    str,
    typer.Option(
        help="Shared key/value heads: whole_groups (shrinks the cache), equalise, or ungroup"
        " (exact for any mask; copies keys and values only where groups become uneven).",
        rich_help_panel="Choosing",
    ),
]
CLUSTERS = "Clusters"
ActionOption = Annotated[
    str,
    typer.Option(
        help="What becomes of the heads that go: remove, mask; of clusters also duplicate (take"
        " over the weights of the head that stands for them) or fold (the same logits, smaller).",
        rich_help_panel="Choosing",
    ),
]
DistanceOption = Annotated[
    str,
    typer.Option(help="Between attention maps: cosine or euclidean.", rich_help_panel=CLUSTERS),
]
GroupingOption = Annotated[
    str,
    typer.Option(
        help="balanced, nearest_pairs, importance_budget, global (groups may span blocks), or"
        " random (baseline).",
        rich_help_panel=CLUSTERS,
    ),
]
RepresentativeOption = Annotated[
    str, typer.Option(help="Who stays of a group: medoid or random.", rich_help_panel=CLUSTERS)
]
UnitOption = Annotated[
    str,
    typer.Option(
        help="What is grouped: head, or kv (whole key/value heads with their query heads).",
        rich_help_panel=CLUSTERS,
    ),
]
WardOption = Annotated[
    str,
    typer.Option(
        help="Ward on unit vectors (unit), or on the distances as they are (raw, as published).",
        rich_help_panel=CLUSTERS,
    ),
]
PaddingOption = Annotated[
    bool,
    typer.Option(
        "--include-padding",
        help="Let padding into the head vectors, as published.",
        rich_help_panel=CLUSTERS,
    ),
]
FirstTokenOption = Annotated[
    str,
    typer.Option(
        help="keep, drop or renormalise what is attended to the first token.",
        rich_help_panel=CLUSTERS,
    ),
]
ImportanceOption = Annotated[
    str | None,
    typer.Option(
        help="Table of scores for importance_budget (.npy, .csv, .json, .safetensors, a pickled"
        " tensor); by default --criterion scores.",
        rich_help_panel=CLUSTERS,
    ),
]
SlopeOption = Annotated[
    str,
    typer.Option(
        help="ALiBi slope of a copy: its own (target, as published) or its source's (source, which"
        " folding needs).",
        rich_help_panel=CLUSTERS,
    ),
]
PromptsOption = Annotated[
    str | None,
    typer.Option(
        help="Texts that heads are compared on: a file (prompt TAB id, .txt, .jsonl, .csv), FILE"
        "[0:800], a folder, a datasets id; by default the calibration data.",
        rich_help_panel=CLUSTERS,
    ),
]
PromptCountOption = Annotated[
    str,
    typer.Option(
        "--n-prompts", "-n", help="Prompts drawn by seed; or all.", rich_help_panel=CLUSTERS
    ),
]
PromptColumnOption = Annotated[
    str | None, typer.Option(help="Column of the prompts.", rich_help_panel=CLUSTERS)
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse prompts longer than the model's context, instead of truncating.",
        rich_help_panel=CLUSTERS,
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
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the interrupted run of the same options.")
]


def amount(text: str) -> int | float:
    """Read an amount of heads: `36`, `50%` or `0.5`.

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
            f"{text!r} of the heads cannot be dropped; write 1% to 100%, or a count of 1 or more"
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


def output_folder(output: Path | None, *parts: str) -> Path:
    """Return the folder to write to: `output`, or a name made of `parts`, below runs/."""
    if output is not None:
        return output
    name = "-".join(p.strip("./").replace("/", "-").replace(":", "-") for p in parts if p)
    return Path("runs") / name
