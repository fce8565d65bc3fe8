"""deadhead prune, and deadhead demo, which is a prune of the bundled encoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from deadhead.cli import choosing as c
from deadhead.cli import options as o
from deadhead.cli.console import progress_bar, say, show, show_json, stopped, typed_command
from deadhead.cli.unused import check_prompts, check_recipe
from deadhead.models.heads import HeadModel
from deadhead.options.amounts import count_heads
from deadhead.pruning.auto import AutoChoice
from deadhead.pruning.recipe import AUTO, Recipe
from deadhead.repair.distill import Distillation
from deadhead.report import RunSummary, outcome, speed_table, step_table, summary_table
from deadhead.report.contents import distillation
from deadhead.runs import DataSettings, ModelSettings, RunSettings, Watch, conduct
from deadhead.runs.journal import partial_folder
from deadhead.similarity import Clustering
from deadhead.strategies import droppable


def prune(
    context: typer.Context,
    model: o.ModelArgument,
    task: o.TaskOption = None,
    output: o.OutputFolderOption = None,
    criterion: c.CriterionOption = "auto",
    strategy: c.StrategyOption = "auto",
    repair: c.RepairOption = "auto",
    repair_at: c.RepairAtOption = "step",
    heads: c.HeadsOption = "50%",
    budget: c.BudgetOption = None,
    cut: Annotated[
        str | None,
        typer.Option(
            help="How many the checkpoint loses, if fewer than the curve covers:"
            " --heads 100% --cut 25%.",
            rich_help_panel="Choosing",
        ),
    ] = None,
    per_step: c.PerStepOption = "1",
    inverse: c.InverseOption = False,
    scope: c.ScopeOption = "global",
    keep_at_least: c.KeepOption = 0,
    gqa: c.GqaOption = "whole_groups",
    loss: c.LossOption = None,
    action: c.ActionOption = "remove",
    distance: c.DistanceOption = "cosine",
    grouping: c.GroupingOption = "balanced",
    representative: c.RepresentativeOption = "medoid",
    unit: c.UnitOption = "head",
    ward_on: c.WardOption = "unit",
    include_padding: c.PaddingOption = False,
    first_token: c.FirstTokenOption = "keep",
    importance: c.ImportanceOption = None,
    slope: c.SlopeOption = "target",
    prompts: c.PromptsOption = None,
    n_prompts: c.PromptCountOption = "100",
    prompt_column: c.PromptColumnOption = None,
    strict: c.StrictOption = False,
    epochs: c.EpochsOption = Distillation.epochs,
    learning_rate: c.LearningRateOption = Distillation.learning_rate,
    seconds: c.SecondsOption = None,
    lora: c.LoraOption = 0,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Stop when the metric on the selection set is worse than the dense one by more"
            " than this: .01 is one point of accuracy.",
            rich_help_panel="Stopping",
        ),
    ] = None,
    patience: Annotated[
        int,
        typer.Option(
            help="Evaluated steps in a row that may be worse before it stops.",
            rich_help_panel="Stopping",
        ),
    ] = 1,
    every_step: Annotated[
        bool,
        typer.Option(
            "--every-step",
            help="Judge the model after every step, not at about ten points of the curve.",
            rich_help_panel="Stopping",
        ),
    ] = False,
    evaluate_every: Annotated[
        int | None,
        typer.Option(help="Judge the model after every so many steps.", rich_help_panel="Stopping"),
    ] = None,
    random: Annotated[
        int,
        typer.Option(help="Also evaluate this many random orders, as a baseline (20 or more)."),
    ] = 0,
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
    speed: Annotated[bool, typer.Option(help="Time the model before and after.")] = True,
    save: Annotated[bool, typer.Option(help="Write the cut checkpoint.")] = True,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    resume: o.ResumeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Score heads, choose what goes, cut it, prove it, and write one run folder.

    The folder holds plan.json, scores.json, trajectory.csv, run.json, figures/, report.html and
    model/, the cut checkpoint: after `import deadhead`, plain AutoModel.from_pretrained loads it.

    Examples:
      deadhead prune bundled:encoder --task bundled:sentiment --heads 50%

      deadhead prune my-bert --task data/ --criterion taylor --heads 100% --random 20

      deadhead prune my-gpt --task pairs.jsonl --max-drop .01 --selection dev.jsonl

      deadhead prune my-opt --task pairs.jsonl --strategy clusters --action fold --heads 25%
    """
    settings = RunSettings(
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
        recipe=Recipe(
            criterion=criterion,
            strategy=strategy,
            repair=repair,
            repair_at=repair_at,
            heads=o.amount(heads),
            budget=",".join(budget) if budget else None,
            cut=None if cut is None else o.amount(cut),
            per_step=o.amount(per_step),
            inverse=inverse,
            scope=scope,
            keep_at_least=keep_at_least,
            gqa=gqa,
            max_drop=max_drop,
            patience=patience,
            every_step=every_step,
            evaluate_every=evaluate_every,
            loss=loss,
            seed=seed,
            action=action,
            slope=slope,
            clustering=Clustering(
                distance=distance,
                grouping=grouping,
                representative=representative,
                unit=unit,
                ward_on=ward_on,
                include_padding=include_padding,
                first_token=first_token,
                importance=importance,
            ),
            strict=strict,
            distillation=Distillation(
                epochs=epochs,
                learning_rate=learning_rate,
                seconds=seconds,
                lora=lora,
                seed=seed,
            ),
        ),
        prompts=c.prompt_settings(prompts, n_prompts, prompt_column, max_length, strict, seed),
        output=o.output_folder(
            output,
            Path(model).name,
            *((distance, grouping, action) if strategy == "clusters" else (criterion, strategy)),
            heads,
        ),
        random=random,
        measure_speed=speed,
        save=save,
        command=typed_command(),
    )
    check_recipe(context, settings.recipe)
    check_prompts(context, prompts)
    automatic = AUTO in (criterion, repair) and settings.recipe.needs_scores
    run(settings, resume=resume, as_json=as_json, automatic=automatic)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")] = Path(
        "deadhead-demo"
    ),
    random: Annotated[int, typer.Option(help="Random orders, as a baseline.")] = 20,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    resume: o.ResumeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Do the whole job, offline, in about a minute: prune the bundled encoder and report it.

    Same as: deadhead prune bundled:encoder --task bundled:sentiment --criterion taylor
    --heads 100% --cut 8 --random 20
    """
    torch.set_num_threads(1)  # the bundled model is so small that a second thread slows it down
    settings = RunSettings(
        model=ModelSettings("bundled:encoder", device, dtype),
        data=DataSettings(spec="bundled:sentiment", seed=seed),
        recipe=Recipe(criterion="taylor", strategy="greedy", heads=1.0, cut=8, seed=seed),
        output=output,
        random=random,
        command=typed_command(),
    )
    run(settings, resume=resume, as_json=as_json)


def run(settings: RunSettings, *, resume: bool, as_json: bool, automatic: bool = False) -> None:
    """Conduct a run behind a progress bar and show its outcome; say what `auto` stands for."""
    with progress_bar("loading", None, hidden=as_json) as advance:

        def on_start(loaded: Any, tasks: Any) -> None:
            view, recipe = HeadModel(loaded.model), settings.recipe
            most = recipe.heads if recipe.budget is None else 1.0
            limit = droppable(view, view.mask, recipe.rules, most)
            each = 2 if recipe.strategy == "greedy" else 1
            here = limit - len(view.mask.dropped)
            moves = math.ceil(here / max(1, count_heads(recipe.per_step, view.mask.n_heads)))
            draws = settings.random * (len(settings.random_fractions) + 1)
            advance.total(moves * each + draws + 5)
            say(f"{loaded.name}: {view.mask.n_kept} heads in {len(view.blocks)} blocks")
            say(tasks.describe(trains=recipe.repair == "distill"))
            if automatic and not recipe.undecided:
                say(f"auto: {recipe.strategy} {recipe.criterion}, repair {recipe.repair}")

        def on_choice(choice: AutoChoice) -> None:
            say(f"auto: {choice.describe()}")

        def on_work(what: str) -> None:
            advance(description=what)

        watch = Watch(on_start=on_start, on_choice=on_choice, on_work=on_work)
        try:
            summary = conduct(settings, resume=resume, watch=watch)
        except KeyboardInterrupt as stop:
            trains = settings.recipe.repair == "distill"
            stopped(waits=partial_folder(settings.output).exists(), trains=trains)
            raise typer.Exit(130) from stop
    report(summary, settings, as_json=as_json)


def report(summary: RunSummary, settings: RunSettings, *, as_json: bool) -> None:
    """Show the outcome of a run, as tables or as JSON."""
    if as_json:
        show_json({"output": str(settings.output), **summary.to_json()})
        return
    for note in summary.run["notes"]:
        say(f"note: {note}")
    show(step_table(summary.trajectory), summary_table({summary.title: summary.trajectory}))
    if summary.evaluated_on != "test":
        show(f"these steps were measured on {summary.evaluated_on}; what follows is on test")
    if summary.speed:
        show(speed_table(summary.speed))
    if trained := distillation(summary.run):
        show(f"distill: {trained}")
    show(outcome(summary), f"report: {settings.output / 'report.html'}")
    if settings.save:
        needs = "import deadhead, then " if summary.model["needs_deadhead"] else ""
        loader = f"{needs}{summary.model['auto_class']}.from_pretrained"
        show(f"model:  {settings.output / 'model'}  ({loader})")
