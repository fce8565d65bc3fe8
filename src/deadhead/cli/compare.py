"""deadhead compare: every criterion and repair beside the random baseline, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deadhead.cli import choosing as c
from deadhead.cli import options as o
from deadhead.cli.console import fail, typed_command
from deadhead.cli.sweep import run, share
from deadhead.cli.unused import DISTILL, refuse_typed
from deadhead.criteria import CRITERIA
from deadhead.pruning.recipe import AUTO
from deadhead.repair.distill import Distillation
from deadhead.runs import DataSettings, ModelSettings
from deadhead.runs.sweep import SweepSettings
from deadhead.scoring.spec import CriterionSpec
from deadhead.studies.sweep import SweepGrid


def compare(
    context: typer.Context,
    model: o.ModelArgument,
    task: o.TaskOption = None,
    output: o.OutputFolderOption = None,
    criteria: Annotated[
        str,
        typer.Option(
            "--criteria",
            "-c",
            help="Criteria with commas, or all (but file, random, shapley). Each drops its lowest"
            " scores at once; reconstruction, which knows every mask from one pass, greedily; auto"
            " is what 'deadhead prune' does if no method is named.",
            rich_help_panel="Choosing",
        ),
    ] = "all",
    greedy: Annotated[
        str,
        typer.Option(
            help="Criteria that also drop head by head and score again after each, a pass a head;"
            " or none.",
            rich_help_panel="Choosing",
        ),
    ] = "none",
    search: Annotated[
        str,
        typer.Option(
            help="Criteria that also swap heads afterwards (reconstruction); or none.",
            rich_help_panel="Choosing",
        ),
    ] = "none",
    repair: Annotated[
        str,
        typer.Option(
            help="none, bias, least_squares, distill: each for every criterion, with commas.",
            rich_help_panel="Choosing",
        ),
    ] = "none,least_squares",
    distill_of: Annotated[
        str,
        typer.Option(
            help='Rows that distill trains, as they are named in the table, with commas: "greedy'
            ' reconstruction,taylor". The others, and random heads always, get least_squares.',
            rich_help_panel=c.DISTILL,
        ),
    ] = "all",
    epochs: c.EpochsOption = Distillation.epochs,
    learning_rate: c.LearningRateOption = Distillation.learning_rate,
    seconds: c.SecondsOption = 60.0,
    lora: c.LoraOption = 0,
    heads: Annotated[
        str, typer.Option(help="Shares of the heads, with commas.", rich_help_panel="Choosing")
    ] = "25%,50%,75%,90%",
    random: Annotated[
        int, typer.Option(help="Draws of random heads, with every repair; 20 for a band.")
    ] = 20,
    gqa: c.GqaOption = "whole_groups",
    loss: c.LossOption = None,
    strict: c.StrictOption = False,
    also: o.AlsoOption = None,
    kind: o.KindOption = None,
    calibration: o.CalibrationOption = None,
    selection: o.SelectionOption = None,
    train: o.TrainOption = None,
    test: o.TestOption = None,
    text_column: o.TextColumnOption = None,
    text_pair_column: o.TextPairColumnOption = None,
    label_column: o.LabelColumnOption = None,
    calibration_size: o.CalibrationSizeOption = "512",
    test_size: o.TestSizeOption = "all",
    batch_size: o.BatchSizeOption = None,
    max_length: o.MaxLengthOption = None,
    allow_overlap: o.OverlapOption = False,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    resume: o.ResumeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Compare criteria and repairs at several amounts of heads, on one loaded model.

    Criteria of the same loss share one pass, all repairs share another, and every model is judged
    once; distill trains each of its models for --seconds first. Writes sweep.csv, sweep.json,
    figures/ and report.html.

    Example: deadhead compare my-bert --task data/ --criteria all --repair none,least_squares
    """
    every = [AUTO, *(n for n, kind in CRITERIA.items() if kind.in_all)]
    names = every if criteria == "all" else o.names(criteria)
    methods = [(AUTO, AUTO)] if AUTO in names else []
    methods += [("greedy", n) for n in names if n != AUTO and _greedy_is_free(n)]
    methods += [("greedy", n) for n in o.names(greedy)]
    methods += [("search", n) for n in o.names(search)]
    if not methods and not names:
        fail("no criterion is named; give --criteria, --greedy or --search a name, or leave it out")
    repairs = dict.fromkeys(repair.replace(" ", "").split(","))
    if "distill" not in repairs:
        refuse_typed(context, DISTILL, "is for repair distill; name it, or leave this out")
    settings = SweepSettings(
        model=ModelSettings(model, device, dtype, trust_remote_code),
        data=DataSettings(
            spec=task,
            kind=kind,
            calibration=calibration,
            selection=selection,
            train=train,
            test=test,
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label_column,
            calibration_size=o.size(calibration_size),
            test_size=o.size(test_size),
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            allow_overlap=allow_overlap,
        ),
        sweep=SweepGrid(
            fractions=tuple(dict.fromkeys(share(text) for text in o.names(heads))),
            criteria=tuple(n for n in names if n != AUTO and not _greedy_is_free(n)),
            methods=tuple(dict.fromkeys(methods)),
            repairs=tuple(repairs),
            distill_of=() if distill_of == "all" else tuple(o.names(distill_of)) or (distill_of,),
            actions=("remove",),
            draws=random,
            loss=loss,
            gqa=gqa,
            seed=seed,
            strict=strict,
        ),
        output=o.output_folder(output, Path(model).name, "compare"),
        also=tuple(also or ()),
        distillation=Distillation(
            epochs=epochs, learning_rate=learning_rate, seconds=seconds, lora=lora, seed=seed
        ),
        measure_speed=False,
        measure_size=False,
        kind="compare",
        command=typed_command(),
    )
    run(settings, resume=resume, as_json=as_json)


def _greedy_is_free(criterion: str) -> bool:
    """Whether one pass over the data scores every mask."""
    spec = CriterionSpec.parse(criterion)
    return spec.uses_data and spec.scores_masks
