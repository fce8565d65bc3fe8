"""deadhead prune: the whole job; and deadhead demo, which shows it offline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.cli.console import files_of, load_line, watching
from deadhead.cli.options import Resumable
from deadhead.display import number
from deadhead.errors import OutputExistsError
from deadhead.files import check_empty
from deadhead.options.fields import option, settings
from deadhead.options.settings import seed_option
from deadhead.options.values import DEFAULT_REPAIR, Dtype
from deadhead.pruning.recipe import AUTO, Recipe
from deadhead.runs.run_settings import RunSettings, SweepSettings
from deadhead.runs.settings import DataSettings, ModelSettings

if TYPE_CHECKING:
    from deadhead.report import RunSummary
    from deadhead.report.sweep_page import SweepSummary


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
    lines = run_lines(summary, settings)
    screen.end(run_brief(summary, settings), *lines, notes=summary.run["notes"])


def run_watched(settings: RunSettings, screen: Resumable) -> RunSummary:
    """Run behind a progress bar."""
    from deadhead.runs.prune import run_prune

    trains = settings.recipe.repair == "distill"
    hidden = screen.as_json
    with watching("loading", settings.output, hidden=hidden, trains=trains) as watch:
        return run_prune(settings, resume=screen.resume, watch=watch)


def run_lines(summary: RunSummary, settings: RunSettings) -> Iterator[Any]:
    """Yield the tables and lines that show the outcome of a run."""
    from deadhead.pruning.judges import COSINE
    from deadhead.report import outcome, speed_table, step_table, summary_table
    from deadhead.report.tables import distillation

    if summary.evaluated_on == "held_out":
        low, high = map(number, summary.evaluation["interval"]["pruned"])
        size, interval = summary.run["data"]["held_out"]["size"], f"95% interval {low} to {high}"
        if summary.trajectory.metric == COSINE:
            lowest = number(summary.evaluation["pruned"]["lowest_cosine"])
            yield (
                f"cosine to the dense model's embeddings of {size} held-out examples:"
                f" {number(summary.after)} ({interval}), lowest {lowest}"
            )
        else:
            yield (
                f"divergence from the dense model's predictions on {size} held-out texts:"
                f" {number(summary.after)} nats ({interval})"
            )
    else:
        yield step_table(summary.trajectory)
        yield summary_table(summary.trajectory)
    if summary.evaluated_on == "selection":
        yield "these steps were measured on the selection set; what follows is on the test set"
    if summary.speed:
        yield speed_table(summary.speed)
    if trained := distillation(summary.run):
        yield f"distill: {trained}"
    yield from (outcome(summary), summary.model["saved"])
    if record := summary.model.get("record"):
        yield record
    yield f"report: {settings.output / 'report.html'}"
    if settings.save:
        yield load_line(settings.output / "model", summary.model)


def run_brief(summary: RunSummary, settings: RunSettings) -> dict[str, Any]:
    """Return the numbers of a run, and where the whole of it is."""
    from deadhead.report import outcome

    names = ("run.json", "plan.json", "report.html", "scores.json", "model")
    return {
        **files_of(settings.output, *names),
        "title": summary.title,
        "outcome": outcome(summary),
        "heads": {
            "before": summary.trajectory.start.mask.n_kept,
            "after": summary.plan.mask.n_kept,
        },
        "model": summary.model,
        "metric": summary.trajectory.metric,
        "evaluation": summary.evaluation,
        "repair": summary.plan.repair,
        "notes": summary.run["notes"],
        "seconds": summary.run["seconds"],
    }


SHARES = {0.25: "a quarter", 0.5: "half", 0.75: "three quarters"}
PUBLISHED = ("greedy", "gradient_norm")
METHODS = {
    f"auto + {DEFAULT_REPAIR}": "by default (auto, repaired)",
    "greedy gradient_norm": "published (greedy gradient_norm)",
    f"greedy gradient_norm + {DEFAULT_REPAIR}": "published, repaired",
    "random heads": "random heads",
    f"random heads + {DEFAULT_REPAIR}": "random heads, repaired",
}


@settings
class DemoSettings:
    """What `deadhead demo` takes."""

    output: Path = option(
        default=Path("deadhead-demo"), flags=("--output", "-o"), help="Folder to write."
    )
    random: int = option(default=20, help="Random rankings, as a baseline.")
    device: str = option(default="cpu", help="cpu, cuda, cuda:1, mps.")
    dtype: Dtype | None = option(default=None, help="By default as saved.")
    seed: int = seed_option()
    command: str = field(default="", compare=False)

    def run(self) -> RunSettings:
        """Return the run: what `deadhead prune` does by default."""
        return RunSettings(
            model=ModelSettings("bundled:encoder", device=self.device, dtype=self.dtype),
            data=DataSettings("bundled:sentiment", seed=self.seed),
            recipe=Recipe(heads=0.5, seed=self.seed),
            output=self.output / "run",
            command=self.command,
        )

    def comparison(self) -> SweepSettings:
        """Return the comparison with random heads and the published method."""
        from deadhead.studies.grid import SweepGrid

        run = self.run()
        return SweepSettings(
            model=run.model,
            data=run.data,
            sweep=SweepGrid(
                fractions=tuple(SHARES),
                methods=((AUTO, AUTO), PUBLISHED),
                repairs=("none", DEFAULT_REPAIR),
                actions=("remove",),
                draws=self.random,
                seed=self.seed,
            ),
            output=self.output / "comparison",
            measure_speed=False,
            measure_size=False,
            kind="compare",
            command=self.command,
        )


def demo(asked: DemoSettings, screen: Resumable) -> None:
    """Do the whole job, offline, in about a minute, with a model that comes with deadhead.

    Removes half of the heads of a small sentiment classifier by the default method, writes the
    smaller model and a report, and compares the method with random heads and with a published
    method (greedy gradient_norm).
    """
    import torch

    from deadhead.report.page import TextTable
    from deadhead.runs.sweep import run_sweep

    torch.set_num_threads(1)  # the bundled model is so small that a second thread slows it down
    if not screen.resume:
        check_empty(asked.output)
    run, comparison = asked.run(), asked.comparison()
    brief: dict[str, Any] = {}
    if not (run.output / "run.json").is_file():
        summary = run_watched(run, _resumed(screen, run.output))
        brief = run_brief(summary, run)
        if not screen.as_json:
            screen.end(brief, *run_lines(summary, run), notes=summary.run["notes"])
    elif (comparison.output / "sweep.json").is_file():
        raise OutputExistsError(f"the demo in {str(asked.output)!r} is complete; remove it first")
    with watching("comparing", comparison.output, hidden=screen.as_json) as watch:
        resume = _resumed(screen, comparison.output).resume
        kept = kept_by(run_sweep(comparison, resume=resume, watch=watch))
    lesson = _lesson(kept)
    files = {"comparison": str(comparison.output / "sweep.json")}
    columns = ("accuracy kept, heads removed:", *(f"{share:.0%}" for share in SHARES))
    rows = [[METHODS[name], *(f"{kept[name][s]:.0%}" for s in SHARES)] for name in kept]
    screen.end(
        {"output": str(asked.output), "files": files, "run": brief, "lesson": lesson},
        TextTable(columns, rows, words=columns[:1]),
        f"report: {comparison.output / 'report.html'}",
        "",
        lesson,
    )


def _resumed(screen: Resumable, output: Path) -> Resumable:
    """Resume what has begun; start what has not."""
    from deadhead.runs.journal import partial_folder

    return replace(screen, resume=screen.resume and partial_folder(output).exists())


def kept_by(compared: SweepSummary) -> dict[str, dict[float, float]]:
    """Return the fraction of the dense model's metric that each method keeps, by share of heads."""
    values = {
        (line.method, line.asked): next(iter(line.readings.values())).value
        for line in compared.lines
    }
    return {
        name: {share: values[name, share] / values["dense", 0.0] for share in SHARES}
        for name in METHODS
        if (name, 0.5) in values
    }


def _lesson(kept: dict[str, dict[float, float]]) -> str:
    """Say the comparison in one sentence."""
    share = max(SHARES)
    default, published = (kept[name][share] for name in list(METHODS)[:2])
    said = (
        f"Remember: one pass over 512 unlabeled texts, and with {SHARES[share]} of its heads"
        f" removed the model keeps {default:.0%} of its accuracy; the published method, which takes"
        f" a pass for every head, keeps {published:.0%}"
    )
    random = kept.get("random heads")
    return said + (f", random heads {random[share]:.0%}." if random else ".")
