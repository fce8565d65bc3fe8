"""deadhead sweep and compare: ways of choosing and repairing beside one another, in one load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from deadhead.cli.console import say, show, show_json, watching
from deadhead.cli.options import Resumable
from deadhead.errors import BudgetError
from deadhead.options.fields import option, part, settings
from deadhead.options.settings import (
    CLUSTERS,
    DATA,
    DISTILL,
    METHOD,
    Clustering,
    Distillation,
    folder_option,
    run_folder,
    seed_option,
    speed_option,
    strict_option,
)
from deadhead.options.values import (
    Action,
    Gqa,
    Loss,
    Repair,
    Slope,
    Strategy,
    parse_names,
    parse_shares,
)
from deadhead.pruning.recipe import AUTO
from deadhead.runs.run_settings import (
    NO_DISTILL,
    NO_LM_EVAL,
    LmEvalSettings,
    SweepSettings,
    idle_of_clusterings,
)
from deadhead.runs.settings import DataSettings, ModelSettings, PromptSettings

if TYPE_CHECKING:
    from deadhead.studies.grid import SweepGrid


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


SECONDS = 60.0  # of distill, for each model


@settings
class CompareOptions(SharedOptions):
    """What `deadhead compare` takes."""

    model: ModelSettings = part()
    data: DataSettings = part()
    heads: tuple[float, ...] = option(
        default=(0.25, 0.5, 0.75, 0.9),
        shown="25%,50%,75%,90%",
        help="Shares of the heads to remove.",
        parse=parse_shares,
    )
    repair: tuple[Repair, ...] = option(
        default=("none", "least_squares"),
        shown="none,least_squares",
        help="Each of these repairs for every criterion, with commas.",
        parse=lambda text: tuple(dict.fromkeys(text.replace(" ", "").split(","))),
    )
    output: Path = folder_option()
    criteria: tuple[str, ...] = option(
        default=("all",),
        shown="all",
        flags=("--criteria", "-c"),
        help="Criteria with commas, or all (but file, random, shapley). Each removes its lowest"
        " scores at once; reconstruction, which knows every mask from one pass, greedily; auto is"
        " what 'deadhead prune' does if no method is named.",
        panel=METHOD,
        parse=parse_names,
    )
    greedy: tuple[str, ...] = option(
        default=(),
        shown="none",
        help="Criteria that also remove head by head and score again after each, a pass a head; or"
        " none.",
        panel=METHOD,
        parse=parse_names,
    )
    search: tuple[str, ...] = option(
        default=(),
        shown="none",
        help="Criteria that also swap heads afterwards (reconstruction); or none.",
        panel=METHOD,
        parse=parse_names,
    )
    random: int = option(
        default=20, help="Draws of random heads, with every repair; 20 for a band.", panel=METHOD
    )
    distill_of: tuple[str, ...] = option(
        default=(),
        shown="all",
        help='Rows that distill trains, as they are named in the table, with commas: "greedy'
        ' reconstruction,taylor". The others, and random heads always, get least_squares.',
        panel=DISTILL,
        parse=lambda text: () if text == "all" else parse_names(text) or (text,),
        group="distill",
    )
    seconds: float | None = option(
        default=SECONDS,
        help="Time limit of distill for each model, in seconds.",
        panel=DISTILL,
        group="distill",
    )
    distillation: Distillation = part(factory=Distillation)
    strict: bool = strict_option()

    def idle(self) -> Mapping[str, str]:
        """Say of each group of options that does nothing here, why."""
        return {} if "distill" in self.repair else {"distill": NO_DISTILL}

    def grid(self) -> SweepGrid:
        """Return what is compared.

        Raises:
            BudgetError: no criterion is named.
        """
        from deadhead.criteria import CRITERIA
        from deadhead.studies.grid import SweepGrid

        every = (AUTO, *(n for n, kind in CRITERIA.items() if kind.in_all))
        names = every if self.criteria == ("all",) else self.criteria
        free = [name for name in names if name != AUTO and _greedy_is_free(name)]
        methods: list[tuple[Strategy, str]] = []
        if AUTO in names:
            methods.append((AUTO, AUTO))
        methods.extend(("greedy", name) for name in (*free, *self.greedy))
        methods.extend(("search", name) for name in self.search)
        if not methods and not names:
            raise BudgetError(
                "no criterion is named; give --criteria, --greedy or --search a name, or leave it"
                " out"
            )
        return SweepGrid(
            fractions=self.heads,
            criteria=tuple(name for name in names if name != AUTO and name not in free),
            methods=tuple(dict.fromkeys(methods)),
            repairs=self.repair,
            distill_of=self.distill_of,
            actions=("remove",),
            draws=self.random,
            loss=self.loss,
            gqa=self.gqa,
            seed=self.seed,
            strict=self.strict,
        )


def _greedy_is_free(criterion: str) -> bool:
    """Whether one pass over the data scores every mask."""
    from deadhead.scoring.spec import CriterionSpec

    spec = CriterionSpec.parse(criterion)
    return spec.uses_data and spec.scores_masks


def compare(asked: CompareOptions, screen: Resumable) -> None:
    """Compare criteria and repairs at several amounts of heads, on one loaded model.

    Criteria of the same loss share one pass, all repairs share another, and every model is judged
    once; distill trains each of its models for --seconds first. Writes sweep.csv, sweep.json,
    figures/ and report.html.

    Example: deadhead compare my-bert --task data/ --criteria all --repair none,least_squares
    """
    settings = SweepSettings(
        model=asked.model,
        data=asked.data,
        sweep=asked.grid(),
        output=run_folder(asked.output, asked.model.short_name, "compare"),
        also=asked.also,
        distillation=asked.distillation,
        measure_speed=False,
        measure_size=False,
        kind="compare",
        command=asked.command,
    )
    show_sweep(settings, screen)
