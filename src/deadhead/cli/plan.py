"""deadhead plan and apply: choosing and cutting, one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from deadhead.checkpoints import load_model, save_model
from deadhead.cli import choosing as c
from deadhead.cli import options as o
from deadhead.cli.console import progress_bar, say, show, show_json, typed_command
from deadhead.cli.reading import note_other_model, read_plan, read_scores
from deadhead.cli.repairing import fits_of
from deadhead.cli.unused import check_prompts, check_recipe
from deadhead.errors import DataError
from deadhead.files import check_empty, write_json
from deadhead.models.heads import HeadModel
from deadhead.options.amounts import count_heads
from deadhead.pruning.auto import AutoChoice
from deadhead.pruning.choose import choose
from deadhead.pruning.recipe import AUTO, Recipe
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.repair import apply_repaired_
from deadhead.report import RunSummary, model_card
from deadhead.runs import DataSettings, ModelSettings, data_facts, model_facts, size_facts, versions
from deadhead.scoring.spec import CriterionSpec
from deadhead.similarity import Clustering
from deadhead.strategies import STRATEGIES, droppable, shortfall
from deadhead.types import HeadMask, HeadScores, PruningPlan

PlanOption = Annotated[
    Path, typer.Option("--plan", "-p", help="A plan.json, of 'deadhead plan' or of a run.")
]


def plan(
    context: typer.Context,
    model: o.ModelArgument,
    scores: c.ScoresOption = None,
    task: o.TaskOption = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the plan.")] = Path(
        "plan.json"
    ),
    criterion: c.CriterionOption = "auto",
    strategy: c.StrategyOption = "auto",
    repair: c.RepairOption = "auto",
    heads: c.HeadsOption = "50%",
    budget: c.BudgetOption = None,
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
    kind: o.KindOption = None,
    calibration: o.CalibrationOption = None,
    text_column: o.TextColumnOption = None,
    text_pair_column: o.TextPairColumnOption = None,
    label_column: o.LabelColumnOption = None,
    calibration_size: o.CalibrationSizeOption = "512",
    batch_size: o.BatchSizeOption = None,
    max_length: o.MaxLengthOption = None,
    allow_overlap: o.OverlapOption = False,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Choose heads and write the plan, without cutting or evaluating anything.

    Example: deadhead plan bundled:encoder --scores scores.json --heads 50%
    """
    recipe = Recipe(
        criterion=criterion,
        strategy=strategy,
        repair=repair,
        heads=o.amount(heads),
        budget=",".join(budget) if budget else None,
        per_step=o.amount(per_step),
        inverse=inverse,
        scope=scope,
        keep_at_least=keep_at_least,
        gqa=gqa,
        loss=loss,
        seed=seed,
        action=action,
        slope=slope,
        strict=strict,
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
    )
    if scores is not None and recipe.strategy == AUTO:
        recipe = replace(recipe, strategy="one_shot")
    check_recipe(context, recipe.settled())
    check_prompts(context, prompts)
    given = None if scores is None else read_scores(scores, criterion)
    if given is not None:
        recipe = replace(recipe, criterion=given.criterion)  # a method by name: no repair by itself
    recipe = recipe.settled()
    if scores is not None and recipe.strategy not in ("one_shot", "clusters"):
        raise DataError(
            f"strategy {recipe.strategy!r} scores again after every move and cannot use"
            f" {str(scores)!r}; choose one_shot or clusters, or leave out --scores"
        )
    asked = c.prompt_settings(prompts, n_prompts, prompt_column, max_length, strict, seed)
    loaded = load_model(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    view, batches, probes = HeadModel(loaded.model), None, None
    decided: list[AutoChoice] = []
    provenance: dict[str, Any] = {"model": loaded.name, **asdict(recipe), "versions": versions()}
    provenance["clustering"] = asdict(recipe.rules.clustering)  # with its seed
    if scores is not None and given is not None:
        del provenance["seed"], provenance["loss"]  # the scores were made with their own
        provenance["scores"] = {"file": scores.name, **given.provenance}
        note_other_model("scores were", given.provenance, loaded.name)
    texts = None if asked is None else asked.open(loaded.tokenizer, loaded.model.config)
    if needs_calibration(recipe, prompts=texts is not None, scores=given is not None):
        data = DataSettings(
            spec=task,
            kind=kind,
            calibration=calibration,
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label_column,
            calibration_size=o.size(calibration_size),
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            allow_overlap=allow_overlap,
        )
        source = data.open_one("calibration", loaded.tokenizer, loaded.model.config)
        batches, probes = source.batches(), source.probes()
        provenance["data"] = data_facts(calibration=source)
    if texts is not None:
        provenance["data"] = {**provenance.get("data", {}), **data_facts(prompts=texts)}
    shown = None if texts is None else texts.batches()
    total = scorings(view, recipe) * len(batches) if batches else len(shown or ()) or None
    with progress_bar("choosing", total, hidden=as_json) as advance:
        chosen = choose(
            view,
            batches,
            recipe,
            scores=given,
            prompts=shown,
            probes=probes,
            on_choice=lambda made: decided.append(made),
            on_batch=advance,
        )
    for choice in decided:
        say(f"auto: {choice.describe()}")
        names = ("strategy", "criterion", "loss")
        provenance |= {name: getattr(choice.recipe, name) for name in names}
    short = shortfall(view, view.mask, recipe.rules, recipe.heads)
    if recipe.budget is None and recipe.strategy != "clusters" and short:
        say(f"note: {short}")
    chosen = replace(chosen, provenance=provenance)
    write_json(output, chosen.to_json())
    if as_json:
        show_json(chosen.to_json())
    else:
        show(chosen.describe(), f"plan: {output}")


def apply(
    model: o.ModelArgument,
    plan_file: PlanOption = Path("plan.json"),
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the cut checkpoint.")
    ] = Path("pruned"),
    action: c.PlannedActionOption = None,
    slope: c.PlannedSlopeOption = None,
    gqa: c.PlannedGqaOption = None,
    repair: c.PlannedRepairOption = None,
    task: o.TaskOption = None,
    kind: o.KindOption = None,
    calibration: o.CalibrationOption = None,
    text_column: o.TextColumnOption = None,
    text_pair_column: o.TextPairColumnOption = None,
    calibration_size: o.CalibrationSizeOption = "512",
    batch_size: o.BatchSizeOption = None,
    max_length: o.MaxLengthOption = None,
    strict: c.StrictOption = False,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Do to a model what a plan says, and save the checkpoint.

    The plan is a plan.json, or a pruning log (layer, kept, removed). A plan with a repair needs
    calibration data; labels are not looked at. After `import deadhead`, plain
    AutoModel.from_pretrained loads what was cut.

    Examples:
      deadhead apply bundled:encoder --plan plan.json --task bundled:sentiment -o small

      deadhead apply my-bloom --plan pruned.log --action mask -o masked
    """
    if not plan_file.is_file():  # before anything is loaded
        raise DataError(f"{str(plan_file)!r} is not there; give the file that holds a plan")
    check_empty(output)
    loaded = load_model(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    origin, before = HeadModel(loaded.model).mask, size_facts(loaded.model)
    changes = {"action": action, "slope": slope, "gqa": gqa, "repair": repair}
    chosen = read_plan(plan_file, origin, **changes)
    note_other_model("plan was", chosen.provenance, loaded.name)
    data = DataSettings(
        spec=task,
        kind=kind,
        calibration=calibration,
        text_column=text_column,
        text_pair_column=text_pair_column,
        calibration_size=o.size(calibration_size),
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
        allow_overlap=True,  # no other set is looked at
    )
    apply_repaired_(loaded.model, chosen, fits_of(loaded, [chosen], data, strict=strict)[0])
    facts = model_facts(loaded.name, loaded.model, ModelSettings(model), before=before)
    summary = unevaluated(chosen, origin, facts)
    save_model(loaded.model, loaded.tokenizer, output, card=model_card(summary))
    if as_json:
        show_json({"output": str(output), **facts, "plan": chosen.to_json()})
    else:
        sizes = (f"{facts[f'parameters_{when}']:,} {when}" for when in ("before", "after"))
        show(chosen.describe(), f"parameters: {', '.join(sizes)}")
        needs = "import deadhead, then " if facts["needs_deadhead"] else ""
        show(f"model: {output}  ({needs}{facts['auto_class']}.from_pretrained)")


def needs_calibration(recipe: Recipe, *, prompts: bool, scores: bool) -> bool:
    """Whether choosing looks at calibration data."""
    if recipe.undecided:
        return True
    scored = CriterionSpec.parse(recipe.criterion).uses_data and not scores
    return (recipe.needs_scores and scored) or (recipe.needs_prompts and not prompts)


def scorings(view: HeadModel, recipe: Recipe) -> int:
    """Count the scorings that a strategy makes."""
    if recipe.undecided:
        return 1
    strategy, spec = STRATEGIES[recipe.strategy], CriterionSpec.parse(recipe.criterion)
    if not strategy.rescores or spec.scores_masks:
        return 1
    limit = droppable(view, view.mask, recipe.rules, recipe.heads) - len(view.mask.dropped)
    return math.ceil(limit / max(1, count_heads(recipe.per_step, view.mask.n_heads)))


def unevaluated(chosen: PruningPlan, origin: HeadMask, facts: dict[str, Any]) -> RunSummary:
    """Return what is known of a model that was cut by a plan and not judged."""
    scores = chosen.provenance.get("scores")
    made = {**(scores if isinstance(scores, Mapping) else {}), **chosen.provenance}
    start = Step(origin, (), float("nan"), 0.0)
    blank = tuple(np.full(n, np.nan) for n in origin.counts)
    return RunSummary(
        title=f"{facts['name']}: by plan",
        trajectory=Trajectory(start, ()),
        scores=HeadScores(blank, str(made.get("criterion", "not known"))),
        plan=chosen,
        model=facts,
        run={
            "command": typed_command(),
            "versions": versions(),
            "seed": made.get("seed"),
            "data": made.get("data"),
        },
    )
