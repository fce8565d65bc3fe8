"""deadhead similarity: how alike heads are, without pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deadhead.cli import choosing as c
from deadhead.cli import options as o
from deadhead.cli.console import progress_bar, say, show, show_json, typed_command
from deadhead.cli.unused import refuse_typed
from deadhead.report.similarity_summary import (
    SimilaritySummary,
    agreement_table,
    block_table,
    removed_share_table,
)
from deadhead.runs import ModelSettings
from deadhead.runs.comparing import Draws, SimilarityWatch
from deadhead.runs.similar import conduct_similarity
from deadhead.runs.similarity_settings import SimilaritySettings
from deadhead.similarity import Clustering


def similarity(
    context: typer.Context,
    model: o.ModelArgument,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompts",
            help="Texts that heads are compared on: a file (prompt TAB id, .txt, .jsonl, .csv),"
            " FILE[0:800], a folder, a datasets id. Given again: prompts whose groups are compared"
            " with those of the first.",
            rich_help_panel="Prompts",
        ),
    ] = None,
    n_prompts: c.PromptCountOption = "100",
    draws: Annotated[
        int,
        typer.Option(
            help="Draws of n prompts whose groups are compared.", rich_help_panel="Prompts"
        ),
    ] = 10,
    column: c.PromptColumnOption = None,
    max_length: o.MaxLengthOption = None,
    strict: c.PromptStrictOption = False,
    heads: c.HeadsOption = "50%",
    distance: c.DistanceOption = "cosine",
    grouping: c.GroupingOption = "balanced",
    representative: c.RepresentativeOption = "medoid",
    unit: c.UnitOption = "head",
    ward_on: c.WardOption = "unit",
    include_padding: c.PaddingOption = False,
    first_token: c.FirstTokenOption = "keep",
    importance: Annotated[
        str | None,
        typer.Option(
            help="A criterion (taylor) or a table of scores (FILE, FILE:KEY): which important heads"
            " go at 10% to 90%, and the budget of importance_budget.",
            rich_help_panel="Importance",
        ),
    ] = None,
    important: Annotated[
        str,
        typer.Option(
            help="How many heads --importance calls important: 36, 25%, or 0.25.",
            rich_help_panel="Importance",
        ),
    ] = "25%",
    output: o.OutputFolderOption = None,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Measure how alike heads are, and group them, without pruning anything.

    The folder holds the distances, the groups, a plan and a pruning log, how much the groups depend
    on the prompts, figures/ and report.html. 'deadhead apply --plan OUT/plan.json' takes the plan.

    Examples:
      deadhead similarity bundled:decoder --heads 50%

      deadhead similarity my-opt --prompts a.tsv --prompts b.tsv --importance taylor -o alike
    """
    if importance is None:
        refuse_typed(
            context,
            ("important",),
            "counts heads by --importance, which is not given; give it a criterion or a table, or"
            " leave it out",
        )
    settings = SimilaritySettings(
        model=ModelSettings(model, device, dtype, trust_remote_code),
        clustering=Clustering(
            distance=distance,
            grouping=grouping,
            representative=representative,
            unit=unit,
            ward_on=ward_on,
            include_padding=include_padding,
            first_token=first_token,
            importance=importance,
            seed=seed,
        ),
        output=o.output_folder(
            output, Path(model).name, "similarity", distance, grouping, f"{heads}"
        ),
        prompts=tuple(prompts or ()),
        n=o.size(n_prompts),
        heads=o.amount(heads),
        importance=importance,
        important=o.amount(important, goal="called important"),
        draws=draws,
        column=column,
        max_length=max_length,
        strict=strict,
        seed=seed,
        command=typed_command(),
    )
    with progress_bar("comparing", None, hidden=as_json) as advance:

        def on_start(loaded: Any, found: Draws, total: int) -> None:
            advance.total(total)
            for name, drawn in found.items():
                say(f"{name}: {drawn[0].size} prompts of {drawn[0].name}, {len(drawn)} draws")

        summary = conduct_similarity(
            settings, watch=SimilarityWatch(on_start=on_start, on_batch=advance)
        )
    report(summary, settings.output, as_json=as_json)


def report(summary: SimilaritySummary, output: Path, *, as_json: bool) -> None:
    """Show what was found, as tables or as JSON."""
    if as_json:
        show_json({"output": str(output), **summary.to_json()})
        return
    show(block_table(summary))
    if summary.agreement is not None:
        show(agreement_table(summary.agreement))
    if summary.removed:
        show(removed_share_table(summary.removed, summary.importance))
    for note in summary.notes:
        say(f"note: {note}")
    show(summary.outcome(), f"report: {output / 'report.html'}")
