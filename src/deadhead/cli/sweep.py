"""deadhead sweep: groupings, criteria, actions and amounts beside one another, in one load."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from deadhead.cli import choosing as c
from deadhead.cli import options as o
from deadhead.cli.console import progress_bar, say, show, show_json, stopped, typed_command
from deadhead.cli.lm_eval import FewshotOption, IncludePathOption, LimitOption, LmEvalOption
from deadhead.cli.unused import PROMPTS, STRICT, check_clusterings, check_lm_eval, check_prompts
from deadhead.errors import BudgetError
from deadhead.report.sweep_page import INTERVALS, sweep_table
from deadhead.runs import DataSettings, ModelSettings
from deadhead.runs.journal import partial_folder
from deadhead.runs.judging import LmEvalSettings
from deadhead.runs.sweep import SweepSettings, conduct_sweep, frame
from deadhead.similarity import Clustering
from deadhead.studies.sweep import SweepGrid


def sweep(
    context: typer.Context,
    model: o.ModelArgument,
    task: o.TaskOption = None,
    output: o.OutputFolderOption = None,
    heads: Annotated[
        str, typer.Option(help="Shares of the heads, as 10%,25%,50%.", rich_help_panel="Choosing")
    ] = "10%,25%,50%,75%",
    distance: Annotated[
        str, typer.Option(help="cosine, euclidean, or both.", rich_help_panel="Clusters")
    ] = "cosine",
    grouping: Annotated[
        str,
        typer.Option(
            help="balanced, nearest_pairs, importance_budget, global, random (drawn as often as"
            " --random says); several with commas; or none.",
            rich_help_panel="Clusters",
        ),
    ] = "balanced,nearest_pairs",
    action: Annotated[
        str,
        typer.Option(
            help="duplicate, mask, fold, remove; several with commas.", rich_help_panel="Choosing"
        ),
    ] = "duplicate,mask,fold",
    criterion: Annotated[
        str,
        typer.Option(
            "--criterion",
            "-c",
            help="Criteria to compare with (lowest scores go, one-shot), with commas; or none. The"
            " first makes the budgets of importance_budget.",
            rich_help_panel="Choosing",
        ),
    ] = "taylor,gradient_norm",
    random: Annotated[
        int, typer.Option(help="Draws of random heads, and of random groups; 20 for a band.")
    ] = 0,
    representative: c.RepresentativeOption = "medoid",
    unit: c.UnitOption = "head",
    ward_on: c.WardOption = "unit",
    include_padding: c.PaddingOption = False,
    first_token: c.FirstTokenOption = "keep",
    importance: c.ImportanceOption = None,
    slope: c.SlopeOption = "target",
    gqa: c.GqaOption = "whole_groups",
    loss: c.LossOption = None,
    prompts: c.PromptsOption = None,
    n_prompts: c.PromptCountOption = "100",
    prompt_column: c.PromptColumnOption = None,
    strict: c.PromptStrictOption = False,
    also: o.AlsoOption = None,
    kind: o.KindOption = None,
    calibration: o.CalibrationOption = None,
    test: o.TestOption = None,
    text_column: o.TextColumnOption = None,
    text_pair_column: o.TextPairColumnOption = None,
    label_column: o.LabelColumnOption = None,
    calibration_size: o.CalibrationSizeOption = "512",
    test_size: o.TestSizeOption = "all",
    batch_size: o.BatchSizeOption = None,
    max_length: o.MaxLengthOption = None,
    allow_overlap: o.OverlapOption = False,
    lm_eval: LmEvalOption = None,
    include_path: IncludePathOption = None,
    num_fewshot: FewshotOption = None,
    limit: LimitOption = None,
    speed: Annotated[bool, typer.Option(help="Time what is really smaller.")] = True,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    resume: o.ResumeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Compare ways of choosing, actions and amounts on one loaded model, with random baselines.

    Writes sweep.csv, sweep.json, figures/ and report.html. The model's weights are as they were.

    Example: deadhead sweep my-opt --task pairs.jsonl --heads 25%,50% --random 20
    """
    clusterings = [
        Clustering(
            distance=metric,
            grouping=name,
            representative=representative,
            unit=unit,
            ward_on=ward_on,
            include_padding=include_padding,
            first_token=first_token,
            importance=importance,
            seed=seed,
        )
        for name, metric in product(o.names(grouping), o.names(distance))
        if name != "random" or metric == o.names(distance)[0]
    ]
    settings = SweepSettings(
        model=ModelSettings(model, device, dtype, trust_remote_code),
        data=DataSettings(
            spec=task,
            kind=kind,
            calibration=calibration,
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
            clusterings=tuple(clusterings),
            criteria=tuple(o.names(criterion)),
            actions=tuple(o.names(action)),
            draws=random,
            loss=loss,
            slope=slope,
            gqa=gqa,
            seed=seed,
        ),
        output=o.output_folder(output, Path(model).name, "sweep"),
        prompts=c.prompt_settings(prompts, n_prompts, prompt_column, max_length, strict, seed),
        also=tuple(also or ()),
        lm_eval=None
        if lm_eval is None
        else LmEvalSettings(
            tuple(o.names(lm_eval)),
            None if include_path is None else str(include_path),
            num_fewshot,
            limit,
            batch_size,
            seed,
            trust_remote_code,
        ),
        measure_speed=speed,
        command=typed_command(),
    )
    check_clusterings(context, clusterings)
    check_prompts(context, prompts, (*PROMPTS, *STRICT))
    check_lm_eval(context, lm_eval)
    run(settings, resume=resume, as_json=as_json)


def run(settings: SweepSettings, *, resume: bool, as_json: bool) -> None:
    """Conduct a sweep behind a progress bar and show its table."""
    with progress_bar(settings.kind, None, hidden=as_json) as advance:

        def on_start(loaded: Any, tasks: Any, points: int) -> None:
            advance.total(points)
            say(f"{loaded.name}: {points} models to judge")
            say(tasks.describe(trains=settings.sweep.trains))

        try:
            summary = conduct_sweep(
                settings,
                resume=resume,
                on_start=on_start,
                on_point=lambda point: advance(description=f"{point.method}, {point.action}"),
            )
        except KeyboardInterrupt as stop:
            stopped(waits=partial_folder(settings.output).exists())
            raise typer.Exit(130) from stop
    if as_json:
        rows = frame(list(summary.lines)).to_dict("records")
        show_json({"output": str(settings.output), "lines": rows, "run": dict(summary.run)})
        return
    for note in summary.run["notes"]:
        say(f"note: {note}")
    show(sweep_table(summary), INTERVALS)
    show(f"report: {settings.output / 'report.html'}, table: {settings.output / 'sweep.csv'}")


def share(text: str) -> float:
    """Read a share of the heads.

    Raises:
        BudgetError: it is none.
    """
    amount = o.amount(text)
    if not isinstance(amount, float):
        raise BudgetError(f"{text!r} is a number of heads; a sweep takes shares, as 25% or 0.25")
    return amount
