"""deadhead prune: the whole job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deadhead.cli.console import say, show, show_json, watching
from deadhead.cli.options import Resumable
from deadhead.display.words import number
from deadhead.runs.prune_settings import RunSettings

if TYPE_CHECKING:
    from deadhead.report import RunSummary


def prune_command(settings: RunSettings, screen: Resumable) -> None:
    """Score heads, remove the least important ones, repair the rest, and report what it cost.

    Writes one folder: model/ (the smaller checkpoint), report.html, figures/, plan.json,
    scores.json, trajectory.csv, run.json. After `import deadhead`, plain
    AutoModel.from_pretrained loads the checkpoint.

    Examples:
      deadhead prune bundled:encoder --task bundled:sentiment --heads 50%

      deadhead prune my-bert --calibration texts.txt --heads 50%

      deadhead prune my-bert --task data/ --criterion taylor --heads 100% --random 20

      deadhead prune my-gpt --task pairs.jsonl --max-drop .01 --selection dev.jsonl

      deadhead prune my-opt --task pairs.jsonl --strategy clusters --action fold --heads 25%
    """
    summary = run_watched(settings, screen)
    if screen.as_json:
        show_json(run_brief(summary, settings))
    else:
        show_run(summary, settings)


def run_watched(settings: RunSettings, screen: Resumable) -> RunSummary:
    """Run behind a progress bar."""
    from deadhead.runs.prune import run_prune

    trains = settings.recipe.repair == "distill"
    hidden = screen.as_json
    with watching("loading", settings.output, hidden=hidden, trains=trains) as watch:
        return run_prune(settings, resume=screen.resume, watch=watch)


def show_run(summary: RunSummary, settings: RunSettings) -> None:
    """Show the outcome of a run."""
    from deadhead.report import outcome, speed_table, step_table, summary_table
    from deadhead.report.contents import distillation

    for note in summary.run["notes"]:
        say(f"note: {note}")
    if summary.evaluated_on == "held_out":
        low, high = summary.evaluation["interval"]["pruned"]
        size = summary.run["data"]["held_out"]["size"]
        show(
            f"divergence from the dense model's predictions on {size} held-out texts:"
            f" {number(summary.after)} nats (95% interval {number(low)} to {number(high)})"
        )
    else:
        show(step_table(summary.trajectory), summary_table(summary.trajectory))
    if summary.evaluated_on == "selection":
        show("these steps were measured on the selection set; what follows is on the test set")
    if summary.speed:
        show(speed_table(summary.speed))
    if trained := distillation(summary.run):
        show(f"distill: {trained}")
    show(outcome(summary), summary.model["saved"], f"report: {settings.output / 'report.html'}")
    if settings.save:
        needs = "import deadhead, then " if summary.model["needs_deadhead"] else ""
        loader = f"{needs}{summary.model['auto_class']}.from_pretrained"
        show(f"model:  {settings.output / 'model'}  ({loader})")


def run_brief(summary: RunSummary, settings: RunSettings) -> dict[str, Any]:
    """Return the numbers of a run, and where the whole of it is."""
    from deadhead.report import outcome

    folder, start = settings.output, summary.trajectory.start.mask
    names = ("run.json", "plan.json", "report.html", "scores.json", "model")
    return {
        "output": str(folder),
        "files": {
            name.split(".")[0]: str(folder / name) for name in names if (folder / name).exists()
        },
        "title": summary.title,
        "outcome": outcome(summary),
        "heads": {"before": start.n_kept, "after": summary.plan.mask.n_kept},
        "model": summary.model,
        "metric": summary.trajectory.metric,
        "evaluation": summary.evaluation,
        "repair": summary.plan.repair,
        "notes": summary.run["notes"],
        "seconds": summary.run["seconds"],
    }
