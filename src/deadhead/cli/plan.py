"""deadhead plan, apply and evaluate: the parts of a prune, one at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from deadhead.checkpoints import check_empty, load_model, save_model
from deadhead.cli import options as o
from deadhead.cli.console import progress_bar, say, show, show_json, typed_command
from deadhead.criteria.base import criterion_class
from deadhead.errors import DataError, FileFormatError
from deadhead.heads import HeadModel
from deadhead.pruning import Recipe, choose
from deadhead.report import RunSummary, model_card
from deadhead.report.atomic import replacing
from deadhead.runs import (
    DataSettings,
    ModelSettings,
    data_facts,
    model_facts,
    model_size,
    versions,
)
from deadhead.strategies import droppable
from deadhead.surgery import masked, remove_
from deadhead.trajectory import Step, Trajectory
from deadhead.types import HeadMask, HeadScores, PruningPlan, count_heads

PlanOption = Annotated[
    Path, typer.Option("--plan", "-p", help="A plan.json, of 'deadhead plan' or of a run.")
]


def plan(
    model: o.ModelArgument,
    scores: o.ScoresOption = None,
    task: o.TaskOption = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the plan.")] = Path(
        "plan.json"
    ),
    criterion: o.CriterionOption = "gradient_norm",
    strategy: o.StrategyOption = "one_shot",
    heads: o.HeadsOption = "50%",
    per_step: o.PerStepOption = "1",
    inverse: o.InverseOption = False,
    scope: o.ScopeOption = "global",
    keep_at_least: o.KeepOption = 0,
    gqa: o.GqaOption = "whole_groups",
    loss: o.LossOption = None,
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
        heads=o.amount(heads),
        per_step=o.amount(per_step),
        inverse=inverse,
        scope=scope,
        keep_at_least=keep_at_least,
        gqa=gqa,
        loss=loss,
        seed=seed,
    )
    if scores is not None and strategy != "one_shot":
        raise DataError(
            f"strategy {strategy!r} scores again after every move and cannot use {str(scores)!r};"
            " choose one_shot, or leave out --scores"
        )
    given = None if scores is None else read_scores(scores, criterion)
    loaded = load_model(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    view, batches = HeadModel(loaded.model), None
    provenance: dict[str, Any] = {"model": loaded.name, **recipe.__dict__, "versions": versions()}
    if scores is not None and given is not None:
        del provenance["seed"], provenance["loss"]  # the scores were made with their own
        provenance["scores"] = {"file": scores.name, **given.provenance}
        note_other_model("scores were", given.provenance, loaded.name)
    if given is None and criterion_class(criterion.split(":")[0]).needs:
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
        batches = source.batches()
        provenance["data"] = data_facts(calibration=source)
    total = scorings(view, recipe) * len(batches) if batches else None
    with progress_bar("choosing", total, hidden=as_json) as advance:
        chosen = choose(view, batches, recipe, scores=given, on_batch=advance)
    chosen = replace(chosen, provenance=provenance)
    with replacing(output) as temporary:
        temporary.write_text(json.dumps(chosen.to_json(), indent=1) + "\n")
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
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Cut the heads of a plan out of a model and save the checkpoint.

    After `import deadhead`, plain AutoModel.from_pretrained loads it.

    Example: deadhead apply bundled:encoder --plan plan.json -o small
    """
    chosen = read_plan(plan_file)
    check_empty(output)
    loaded = load_model(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    note_other_model("plan was", chosen.provenance, loaded.name)
    origin, before = HeadModel(loaded.model).mask, model_size(loaded.model)
    remove_(loaded.model, chosen)
    facts = model_facts(loaded.name, loaded.model, ModelSettings(model), before=before)
    summary = unevaluated(chosen, origin, facts)
    save_model(loaded.model, loaded.tokenizer, output, card=model_card(summary))
    if as_json:
        show_json({"output": str(output), **facts, "plan": chosen.to_json()})
    else:
        sizes = (f"{facts[f'parameters_{when}']:,} {when}" for when in ("before", "after"))
        show(chosen.describe(), f"parameters: {', '.join(sizes)}")
        show(f"model: {output}  (import deadhead, then {facts['auto_class']}.from_pretrained)")


def evaluate(
    model: o.ModelArgument,
    task: o.TaskOption = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", "-p", help="Switch off the heads that a plan drops.")
    ] = None,
    kind: o.KindOption = None,
    test: o.TestOption = None,
    text_column: o.TextColumnOption = None,
    text_pair_column: o.TextPairColumnOption = None,
    label_column: o.LabelColumnOption = None,
    test_size: o.TestSizeOption = "all",
    batch_size: o.BatchSizeOption = None,
    max_length: o.MaxLengthOption = None,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Judge a model, cut or uncut, on a task's test set, with a 95% interval.

    Example: deadhead evaluate small --task bundled:sentiment
    """
    chosen = None if plan_file is None else read_plan(plan_file)
    loaded = load_model(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    data = DataSettings(
        spec=task,
        kind=kind,
        test=test,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        test_size=o.size(test_size),
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
        allow_overlap=True,  # no other set is looked at
    )
    judge = data.open_one("test", loaded.tokenizer, loaded.model.config)
    view = HeadModel(loaded.model)
    mask = view.mask if chosen is None else chosen.mask
    with (
        masked(view, mask),
        progress_bar("evaluating", judge.passes, hidden=as_json) as advance,
    ):
        hook = loaded.model.register_forward_hook(lambda *_: advance())
        try:
            found = judge.evaluate(loaded.model)
        finally:
            hook.remove()
    low, high = found.interval()
    off = sum(not mask.keeps(head) for head in view.mask.heads)
    if as_json:
        show_json(
            {
                "model": loaded.name,
                "plan": plan_file and {"file": str(plan_file), "heads_dropped": off},
                "data": {"name": judge.name, "size": judge.size, "fingerprint": judge.fingerprint},
                "metric": found.metric,
                "value": found.value,
                "interval": [low, high],
                "metrics": found.metrics,
            }
        )
        return
    switched = f" with {off} heads switched off" if chosen else ""
    show(f"{loaded.name}{switched} on {judge.size} examples of {judge.name}")
    for name, value in found.metrics.items():
        interval = f"  (95% interval {low:.4f} to {high:.4f})" if name == found.metric else ""
        show(f"  {name}: {value:.4f}{interval}")


def scorings(view: HeadModel, recipe: Recipe) -> int:
    """Count the scorings that a strategy makes."""
    if recipe.strategy != "greedy":
        return 1
    limit = droppable(view, view.mask, recipe.rules, recipe.heads) - len(view.mask.dropped)
    return math.ceil(limit / max(1, count_heads(recipe.per_step, view.mask.n_heads)))


def note_other_model(what: str, provenance: Mapping[str, Any], name: str) -> None:
    """Say if a file was made with another model than the one at hand."""
    made_for = provenance.get("model")
    if made_for not in (None, name):
        say(f"note: the {what} made for {made_for!r}, and the model is {name!r}")


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


def read_plan(file: Path) -> PruningPlan:
    """Read a plan; see `read_json` for what it refuses."""
    return PruningPlan.from_json(read_json(file, "a plan"))


def read_scores(file: Path, criterion: str) -> HeadScores:
    """Read the scores of one criterion from what `deadhead score -o` or a run wrote.

    Raises:
        FileFormatError: the file is not scores.
        DataError: none of the criteria it holds is the one asked for.
    """
    data = read_json(file, "scores")
    entries = [data] if "values" in data else data.values()
    try:
        read = [HeadScores.from_json(entry) for entry in entries]
        held = {s.criterion: replace(s, provenance=dict(s.provenance)) for s in read}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(
            f"{str(file)!r} does not hold scores ({error!r}); make it with 'deadhead score -o'"
        ) from error
    if criterion not in held:
        raise DataError(
            f"{str(file)!r} has no scores of {criterion!r}; it holds {', '.join(sorted(held))};"
            " name one with --criterion"
        )
    return held[criterion]


def read_json(file: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: there is no such file.
        FileFormatError: it is not a JSON object.
    """
    try:
        data = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{str(file)!r} is not there; give the file that holds {what}") from error
    except (ValueError, OSError) as error:
        raise FileFormatError(
            f"{str(file)!r} is not JSON ({error}); it should hold {what}"
        ) from error
    if not isinstance(data, dict):
        raise FileFormatError(f"{str(file)!r} is not a JSON object; it should hold {what}")
    return data
