"""A whole run: prune, baseline, cut, prove, time, write. One folder at the end, or none."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from deadhead.checkpoints import Loaded, load_model, save_model
from deadhead.data.inputs import to_device
from deadhead.data.prompts import Prompts
from deadhead.errors import BudgetError, CheckpointError, DataError, OutputExistsError
from deadhead.files import check_empty, locked, whole_folder
from deadhead.measure import SpeedRow, Timer, measure_all
from deadhead.models.heads import HeadModel
from deadhead.pruning.auto import AutoChoice
from deadhead.pruning.loop import Progress
from deadhead.pruning.prune import prune
from deadhead.pruning.result import Pruning
from deadhead.pruning.trajectory import Step
from deadhead.repair import Fits, apply_repaired_, fit, repaired, without_training
from deadhead.repair.distill import DistillReport, distill_
from deadhead.report import RunSummary, model_card, write_report
from deadhead.runs.explain import explained
from deadhead.runs.facts import data_facts, model_facts, size_facts, versions
from deadhead.runs.journal import Journal
from deadhead.runs.settings import RunSettings, table_fingerprint
from deadhead.studies.baseline import RandomBaseline, random_baseline
from deadhead.tasks import TaskSet
from deadhead.types import HeadMask, PruningPlan


@dataclass
class Watch:
    """What a run tells whoever watches it; all optional.

    Attributes:
        on_start: called once with (the loaded model, the task set).
        on_choice: called if no method was named, with what was decided.
        on_step: called after every step.
        on_work: called after every scoring, evaluation or other piece of work.
    """

    on_start: Callable[[Loaded, TaskSet], None] = lambda loaded, tasks: None
    on_choice: Callable[[AutoChoice], None] = lambda choice: None
    on_step: Callable[[Step], None] = lambda step: None
    on_work: Callable[[str], None] = lambda what: None


def conduct(
    settings: RunSettings, *, resume: bool = False, watch: Watch | None = None
) -> RunSummary:
    """Run `deadhead prune` and write its folder.

    Raises:
        DeadheadError: of any kind; the folder is then not there, and the journal is.
    """
    check_empty(settings.output)  # before anything that takes long
    with locked(settings.output):
        return _conduct(settings, resume, watch or Watch())


def _conduct(settings: RunSettings, resume: bool, watch: Watch) -> RunSummary:
    timer = Timer()
    loaded = load_model(**settings.model.__dict__)
    view = HeadModel(loaded.model)
    tasks = settings.data.open(loaded.tokenizer, loaded.model.config)
    prompts = _prompts(loaded, settings)
    data = data_facts(
        calibration=tasks.calibration,
        selection=tasks.selection,
        training=tasks.training if settings.recipe.repair == "distill" else None,
        test=tasks.judge,
        prompts=prompts,
    )
    journal = Journal.open(
        settings.output,
        {
            **settings.header(),
            "fingerprints": data,
            "weights": settings.model.fingerprint(),
            "importance": table_fingerprint(settings.recipe.clustering.importance),
            "versions": versions(),
        },
        resume=resume,
    )
    before = sum(step.seconds for step in journal.steps)
    try:
        watch.on_start(loaded, tasks)
        pruning = prune(
            view,
            tasks,
            settings.recipe,
            prompts=None if prompts is None else prompts.batches(),
            completed=journal.completed(settings.recipe),
            progress=_journalled(journal, watch),
        )
    except CheckpointError:  # the disk is full: what is written waits for --resume
        raise
    except Exception as error:
        # nothing but the dense model was judged, or what was asked for cannot be had
        if (len(journal.steps) <= 1 or isinstance(error, BudgetError)) and not resume:
            journal.remove()
        raise
    baseline = _baseline(view, tasks, settings, pruning, journal, watch)
    settings = replace(settings, recipe=pruning.recipe)  # as it was decided on
    plan = replace(pruning.plan, provenance=_provenance(loaded.name, settings, data))
    scores = pruning.scores
    if scores is not None:
        made = {"model": loaded.name, "data": {"calibration": data["calibration"]}}
        made |= {"versions": versions()}
        scores = replace(scores, provenance={**scores.provenance, **made})
    explanation = explained(view, tasks, settings.recipe, pruning)
    cut = apply_repaired_(copy.deepcopy(loaded.model), without_training(plan), pruning.fits)
    watch.on_work("cut")
    trained = _distilled(cut, loaded, tasks, settings, watch)
    evaluation = _evaluation(loaded.model, cut, tasks, watch)
    speed = _speed(loaded.model, cut, tasks) if settings.measure_speed else []
    watch.on_work("time")
    run = {
        "command": settings.command,
        "versions": versions(),
        "data": data,
        "notes": [*tasks.notes, *(prompts.notes if prompts else ()), *pruning.notes],
        "seed": settings.recipe.seed,
        "date": datetime.now(UTC).date().isoformat(),
        # a resumed run has taken at least this: loading and random draws come on top
        "seconds": before + timer.seconds,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads,"
        f" {settings.model.device}",
        "settings": settings.header(),
        "weights": settings.model.fingerprint(),
        "evaluated_on": pruning.evaluated_on,
        **({} if pruning.choice is None else {"decision": _decided(pruning.choice)}),
        **({} if trained is None else {"distillation": trained.to_json()}),
    }
    summary = RunSummary(
        title=f"{loaded.name}: {_title(settings)}",
        trajectory=pruning.trajectory,
        scores=scores,
        plan=plan,
        model=model_facts(loaded.name, cut, settings.model, before=size_facts(loaded.model)),
        speed=speed,
        evaluation=evaluation,
        random=baseline,
        run=run,
        explanation=explanation,
    )
    try:
        with whole_folder(settings.output) as folder:
            write_run(summary, folder)
            if settings.save:
                save_model(cut, loaded.tokenizer, folder / "model", card=model_card(summary))
    except CheckpointError as error:
        raise CheckpointError(f"{error}, and go on with --resume") from error
    except OutputExistsError as error:
        raise OutputExistsError(
            f"{str(settings.output)!r} was filled by someone else while this ran; move that away"
            " and go on with --resume"
        ) from error
    journal.remove()
    return summary


def _decided(choice: AutoChoice) -> dict[str, Any]:
    return {**choice.to_json(), "said": choice.describe()}


def _distilled(
    cut: Any, loaded: Loaded, tasks: TaskSet, settings: RunSettings, watch: Watch
) -> DistillReport | None:
    """Train the cut model, if the repair is `distill`."""
    if settings.recipe.repair != "distill":
        return None
    return distill_(
        cut,
        loaded.model,
        tasks.training or tasks.calibration,
        selection=tasks.selection,
        settings=settings.recipe.distillation,
        on_step=lambda step, planned: watch.on_work(f"distill, step {step} of {planned}"),
    )


def write_run(summary: RunSummary, folder: Path) -> None:
    """Write everything but the model: plan, scores, trajectory, run, figures and report.

    A run that looked at no scores has no scores.json.
    """
    values = summary.to_json()
    for name in ("plan", "scores"):
        if values[name] is None:
            continue
        (folder / f"{name}.json").write_text(
            json.dumps(values.pop(name), indent=1) + "\n", encoding="utf-8"
        )
    summary.trajectory.to_frame().to_csv(folder / "trajectory.csv", index=False)
    (folder / "run.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    write_report(summary, folder)


def _prompts(loaded: Loaded, settings: RunSettings) -> Prompts | None:
    if settings.prompts is None:
        return None
    if settings.recipe.strategy != "clusters":
        raise DataError(
            f"strategy {settings.recipe.strategy!r} compares no heads on prompts; leave --prompts"
            " out, or choose --strategy clusters"
        )
    return settings.prompts.open(loaded.tokenizer, loaded.model.config)


def _journalled(journal: Journal, watch: Watch) -> Progress:
    def on_step(step: Step) -> None:
        journal.steps.append(step)
        journal.write("step", step.to_json())
        watch.on_step(step)

    def on_choice(choice: AutoChoice) -> None:
        if journal.decision is None:  # a resumed run has it
            journal.write("decision", choice.to_json())
        watch.on_choice(choice)

    return Progress(
        on_step=on_step,
        on_choice=on_choice,
        on_scores=lambda scores: journal.write("scores", scores.to_json()),
        on_work=watch.on_work,
    )


def _baseline(
    view: HeadModel,
    tasks: TaskSet,
    settings: RunSettings,
    pruning: Pruning,
    journal: Journal,
    watch: Watch,
) -> RandomBaseline | None:
    if not settings.random:
        return None

    recipe = settings.recipe

    def evaluate(mask: HeadMask) -> float:  # with the repair that the run has: a fair comparison
        fits: Fits = {}
        if pruning.moments is not None and recipe.repair_at == "step":
            plan = PruningPlan(mask, gqa=recipe.gqa, repair=recipe.repair)
            batches = tasks.calibration.batches()
            fits = fit(view, plan, pruning.moments, batches=batches)
        with repaired(view, mask, fits):
            return tasks.judge.evaluate(view.model).value

    def on_point(draw: int, dropped: int, value: float) -> None:
        journal.write("random", [draw, dropped, value])
        watch.on_work("random draw")

    return random_baseline(
        view,
        evaluate,
        rules=settings.recipe.rules,
        draws=settings.random,
        fractions=settings.random_fractions,
        dropped=len(pruning.plan.mask.dropped),  # where the two are compared
        seed=settings.recipe.seed,
        done=journal.random,
        on_point=on_point,
    )


def _evaluation(dense: Any, cut: Any, tasks: TaskSet, watch: Watch) -> dict[str, Any]:
    """Judge the dense and the cut model on the test set: the numbers that are reported once."""
    # the curve has these values too if it is on test, but not their intervals and other metrics
    found: dict[str, Any] = {"interval": {}, "chance": tasks.judge.chance}
    for name, model in (("dense", dense), ("pruned", cut)):
        evaluation = tasks.judge.evaluate(model)
        watch.on_work("evaluate")
        found[name] = evaluation.metrics
        found["interval"][name] = list(evaluation.interval())
    return found


def _speed(dense: Any, cut: Any, tasks: TaskSet) -> list[SpeedRow]:
    batch = max(tasks.judge.batches(), key=lambda b: b["input_ids"].shape[1])
    device = next(dense.parameters()).device
    inputs = {k: v[:1] for k, v in to_device(batch, device).items() if k != "labels"}
    return measure_all(dense, cut, inputs, repeats=15, warmup=3)


def _provenance(name: str, settings: RunSettings, data: dict[str, Any]) -> dict[str, Any]:
    recipe = settings.header()["recipe"]
    return {"model": name, **recipe, "data": data, "versions": versions()}


def _title(settings: RunSettings) -> str:
    recipe = settings.recipe
    if recipe.strategy == "clusters":
        return f"clusters {recipe.clustering.name}, {recipe.action}"
    inverse = " inverse" if recipe.inverse else ""
    repair = "" if recipe.repair == "none" else f" + {recipe.repair}"
    return f"{recipe.strategy}{inverse} {recipe.criterion}{repair}"
