"""deadhead sweep: groupings, criteria, actions and amounts beside one another, in one load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from itertools import product
from pathlib import Path

from deadhead.cli.console import say, show, show_json, watching
from deadhead.cli.options import Resumable
from deadhead.options.amounts import parse_names, parse_shares
from deadhead.options.choices import Action, Gqa, Loss, Slope
from deadhead.options.clustering import Clustering
from deadhead.options.fields import option, part, settings
from deadhead.options.flags import folder_option, run_folder, seed_option, speed_option
from deadhead.options.panels import CLUSTERS, DATA, METHOD
from deadhead.runs.idle import NO_LM_EVAL, idle_of_clusterings
from deadhead.runs.settings import DataSettings, ModelSettings, PromptSettings
from deadhead.runs.sweep_settings import LmEvalSettings, SweepSettings


@settings
class SharedOptions:
    """What `deadhead sweep` and `deadhead compare` both take."""

    loss: Loss | None = option(
        default=None,
        help="Loss of gradient criteria; by default the criterion's own.",
        panel=METHOD,
    )
    gqa: Gqa = option(default="whole_groups", help="Shared key/value heads.", panel=METHOD)
    also: tuple[str, ...] = option(
        default=(),
        help="One more test set to judge on, all of it, read by the same --kind and columns as"
        " --task; give several.",
        panel=DATA,
    )
    seed: int = seed_option()
    command: str = field(default="", compare=False)


@settings
class SweepOptions(SharedOptions):
    """What `deadhead sweep` takes."""

    model: ModelSettings = part()
    data: DataSettings = part(without=("selection", "train"))
    heads: tuple[float, ...] = option(
        default=(0.1, 0.25, 0.5, 0.75),
        shown="10%,25%,50%,75%",
        help="Shares of the heads to remove.",
        parse=parse_shares,
    )
    output: Path = folder_option()
    criterion: tuple[str, ...] = option(
        default=("taylor", "gradient_norm"),
        shown="taylor,gradient_norm",
        flags=("--criterion", "-c"),
        help="Criteria to compare with, with commas; or none. Each removes its lowest scores at"
        " once; the first makes the budgets of importance_budget.",
        panel=METHOD,
        parse=parse_names,
    )
    action: tuple[Action, ...] = option(
        default=("duplicate", "mask", "fold"),
        shown="duplicate,mask,fold",
        help="What happens to the chosen heads; several with commas.",
        panel=METHOD,
        parse=parse_names,
    )
    random: int = option(
        default=0, help="Draws of random heads, and of random groups; 20 for a band.", panel=METHOD
    )
    grouping: tuple[str, ...] = option(
        default=("balanced", "nearest_pairs"),
        shown="balanced,nearest_pairs",
        help="balanced, nearest_pairs, importance_budget, global, random (drawn as often as"
        " --random says); several with commas; or none.",
        panel=CLUSTERS,
        parse=parse_names,
    )
    distance: tuple[str, ...] = option(
        default=("cosine",),
        shown="cosine",
        help="cosine, euclidean, or both.",
        panel=CLUSTERS,
        parse=parse_names,
        group="clusters",
    )
    clustering: Clustering = part(factory=Clustering, without=("distance", "grouping"))
    slope: Slope = option(
        default="target", help="ALiBi slope of a copied head.", panel=CLUSTERS, group="clusters"
    )
    prompts: PromptSettings | None = part(default=None)
    lm_eval: LmEvalSettings | None = part(default=None)
    measure_speed: bool = speed_option("Time the models that are smaller.")

    @property
    def clusterings(self) -> tuple[Clustering, ...]:
        """Every grouping by every distance; random groups by the first alone."""
        return tuple(
            replace(self.clustering, grouping=name, distance=metric, seed=self.seed)
            for name, metric in product(self.grouping, self.distance)
            if name != "random" or metric == self.distance[0]
        )

    def idle(self) -> Mapping[str, str]:
        """Say of each group of options that does nothing here, why."""
        idle = idle_of_clusterings(self.clusterings, self.prompts)
        return idle | ({"lm-eval": NO_LM_EVAL} if self.lm_eval is None else {})

    def settings(self) -> SweepSettings:
        """Return the sweep that is asked for."""
        from deadhead.studies.grid import SweepGrid

        return SweepSettings(
            model=self.model,
            data=self.data,
            sweep=SweepGrid(
                fractions=self.heads,
                clusterings=self.clusterings,
                criteria=self.criterion,
                actions=self.action,
                draws=self.random,
                loss=self.loss,
                slope=self.slope,
                gqa=self.gqa,
                seed=self.seed,
            ),
            output=run_folder(self.output, self.model.short_name, "sweep"),
            prompts=self.prompts,
            also=self.also,
            lm_eval=self.lm_eval,
            measure_speed=self.measure_speed,
            command=self.command,
        )


def sweep_command(asked: SweepOptions, screen: Resumable) -> None:
    """Compare ways of choosing, actions and amounts on one loaded model, with random baselines.

    Writes sweep.csv, sweep.json, figures/ and report.html. The model's weights stay as they are.

    Example: deadhead sweep my-opt --task pairs.jsonl --heads 25%,50% --random 20
    """
    show_sweep(asked.settings(), screen)


def show_sweep(settings: SweepSettings, screen: Resumable) -> None:
    """Run a sweep behind a progress bar and show its table."""
    from deadhead.report.sweep_page import INTERVALS, sweep_table
    from deadhead.runs.sweep import frame, run_sweep

    with watching(settings.kind, settings.output, hidden=screen.as_json) as watch:
        summary = run_sweep(settings, resume=screen.resume, watch=watch)
    folder = settings.output
    if screen.as_json:
        rows = frame(list(summary.lines)).to_dict("records")
        files = {name.split(".")[0]: str(folder / name) for name in ("sweep.json", "report.html")}
        show_json({"output": str(folder), "files": files, "lines": rows})
        return
    for note in summary.run["notes"]:
        say(f"note: {note}")
    show(sweep_table(summary), INTERVALS)
    show(f"report: {folder / 'report.html'}, table: {folder / 'sweep.csv'}")
