"""The options that say which heads go, and what is done to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deadhead.cli.options import size
from deadhead.runs import PromptSettings

CLUSTERS = "Clusters"
DISTILL = "Distillation"

CriterionOption = Annotated[
    str,
    typer.Option(
        "--criterion",
        "-c",
        help="How to score heads: 'deadhead list' names all; auto decides between several by"
        " held-out calibration texts, and repairs. Options follow colons:"
        " attention_entropy:normalized=true; names joined by + are combined by rank.",
        rich_help_panel="Choosing",
    ),
]
LossOption = Annotated[
    str | None,
    typer.Option(
        help="Loss of gradient criteria: task (needs labels; of language models the next tokens, of"
        " minimal pairs those of the acceptable sentences), kl (the model's own predictions; no"
        " labels) or logit_norm. By default the criterion's own: task for taylor and fisher, kl for"
        " reconstruction.",
        rich_help_panel="Choosing",
    ),
]
StrategyOption = Annotated[
    str,
    typer.Option(
        "--strategy",
        "-s",
        help="greedy (score again after every move), one_shot, second_look (greedy, measured again"
        " at half of the heads), search (greedy, then swaps), or clusters (one head stands for"
        " each group with alike attention maps); auto decides with the criterion, else greedy.",
        rich_help_panel="Choosing",
    ),
]
ScoresOption = Annotated[
    Path | None, typer.Option(help="A scores.json; without it the heads are scored now.")
]
RepairOption = Annotated[
    str,
    typer.Option(
        help="How the heads that stay make up for those that go: least_squares, bias, none,"
        " least_squares_sequential (each block on what the repaired ones before it put in; slow),"
        " or distill (least_squares, then training against the dense model on all calibration"
        " texts); auto is least_squares if the criterion is auto too, else none.",
        rich_help_panel="Choosing",
    ),
]
RepairAtOption = Annotated[
    str,
    typer.Option(
        help="step: every model of the curve is repaired; end: the last one alone.",
        rich_help_panel="Choosing",
    ),
]
HeadsOption = Annotated[
    str,
    typer.Option(
        "--heads",
        help="How many to drop: 36, 50%, or 0.5; heads of a cut model that are gone already count.",
        rich_help_panel="Choosing",
    ),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        help="What may stay, instead of --heads: parameters=80%, kv_bytes=50%, flops=70%, or"
        " latency=90% (measured on really cut models). May be given several times: all are kept.",
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
        help="Shared key/value heads: whole_groups (shrinks the cache), equalize, or ungroup"
        " (exact for any mask; copies keys and values only where groups become uneven).",
        rich_help_panel="Choosing",
    ),
]
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
        help="keep, drop or renormalize what is attended to the first token.",
        rich_help_panel=CLUSTERS,
    ),
]
ImportanceOption = Annotated[
    str | None,
    typer.Option(
        help="Table of scores for importance_budget (.npy, .csv, .json, .safetensors, a pickled"
        " tensor; FILE:KEY if it holds several); by default --criterion scores.",
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
    str | None,
    typer.Option("--prompt-column", help="Column of the prompts.", rich_help_panel=CLUSTERS),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse what otherwise ends in a note: prompts longer than the model's context;"
        " fewer calibration tokens than a repair has unknowns; blocks whose heads put out the same"
        " for every token.",
    ),
]
PromptStrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse prompts longer than the model's context, instead of cutting them with a note.",
    ),
]
# where a plan or a log is obeyed, these change what it says
PlannedActionOption = Annotated[
    str | None,
    typer.Option(
        "--action", help="remove, mask, duplicate or fold, instead of what the plan says."
    ),
]
PlannedRepairOption = Annotated[
    str | None,
    typer.Option(
        "--repair",
        help="least_squares, least_squares_sequential, bias or none, instead of what the plan says;"
        " needs calibration data (--task or --calibration).",
    ),
]
EpochsOption = Annotated[
    int, typer.Option(help="How often distill sees every text.", rich_help_panel=DISTILL)
]
LearningRateOption = Annotated[
    float, typer.Option(help="Peak learning rate of distill.", rich_help_panel=DISTILL)
]
SecondsOption = Annotated[
    float | None,
    typer.Option(help="Time limit of distill, in seconds.", rich_help_panel=DISTILL),
]
LoraOption = Annotated[
    int,
    typer.Option(
        help="Rank of adapters that distill trains instead of the weights; 0: none.",
        rich_help_panel=DISTILL,
    ),
]
PlannedSlopeOption = Annotated[
    str | None, typer.Option("--slope", help="target or source, instead of what the plan says.")
]
PlannedGqaOption = Annotated[
    str | None,
    typer.Option(
        "--gqa",
        help="whole_groups, equalize or ungroup, instead of what the plan says; a pruning log says"
        " nothing and means ungroup, as single heads were grouped.",
    ),
]


def prompt_settings(
    prompts: str | None,
    n: str,
    column: str | None,
    max_length: int | None,
    strict: bool,
    seed: int,
) -> PromptSettings | None:
    """Return which prompts heads are compared on; None: the calibration data.

    Raises:
        BudgetError: `n` is no number of prompts.
    """
    if prompts is None:
        return None
    return PromptSettings(prompts, size(n), column, max_length, strict, seed)
