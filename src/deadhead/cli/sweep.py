"""deadhead sweep and compare: ways of choosing and repairing beside one another, in one load."""

from __future__ import annotations

from dataclasses import field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.cli.console import files_of, watching
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
    loss_option,
    run_folder,
    seed_option,
    speed_option,
    strict_option,
)
from deadhead.options.values import (
    DEFAULT_REPAIR,
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
from deadhead.runs.run_settings import LmEvalSettings, SweepSettings, idle_of_clusterings
from deadhead.runs.settings import DataSettings, ModelSettings, PromptSettings

if TYPE_CHECKING:
    from deadhead.studies.grid import SweepGrid

SECONDS = 60.0  # of distill, for each model


def names_option(default: tuple[str, ...], help: str, flags: tuple[str, ...] = ()) -> Any:
    """Make a field for names with commas, on how heads are chosen."""
    shown = ",".join(default) or "none"
    return option(
        default=default, shown=shown, help=help, flags=flags, panel=METHOD, parse=parse_names
    )


def shares_option(default: tuple[float, ...]) -> Any:
    """Make a field for `--heads` of several models."""
    shown = ",".join(f"{share:.0%}" for share in default)
    help = "Shares of the heads to remove."
    return option(default=default, shown=shown, help=help, parse=parse_shares)


@settings
class SharedOptions:
    """What `deadhead sweep` and `deadhead compare` both take."""

    model: ModelSettings = part()
    output: Path = folder_option()
    loss: Loss | None = loss_option()
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

    data: DataSettings = part(without=("selection", "train"))
    heads: tuple[float, ...] = shares_option((0.1, 0.25, 0.5, 0.75))
    criterion: tuple[str, ...] = names_option(
        ("taylor", "gradient_norm"),
        "Criteria to compare with, with commas; or none. Each removes its lowest scores at"
        " once; the first makes the budgets of importance_budget.",
        ("--criterion", "-c"),
    )
    action: tuple[Action, ...] = names_option(
        ("duplicate", "mask", "fold"),
        "What happens to the chosen heads; several with commas.",
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
        group="groupings",
    )
    clustering: Clustering = part(factory=Clustering, without=("distance", "grouping"))
    slope: Slope = option(
        default="target", help="ALiBi slope of a copied head.", panel=CLUSTERS, group="groupings"
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

    def idle(self) -> set[str]:
        """Return the groups of options that do nothing here."""
        idle = idle_of_clusterings(self.clusterings, self.prompts)
        return idle | {"lm-eval"} if self.lm_eval is None else idle


def sweep_command(asked: SweepOptions, screen: Resumable) -> None:
    """Compare ways of choosing, actions and amounts on one loaded model, with random baselines.

    Writes sweep.csv, sweep.json, figures/ and report.html. The model's weights stay as they are.

    Example: deadhead sweep my-opt --task pairs.jsonl --heads 25%,50% --random 20
    """
    from deadhead.studies.grid import SweepGrid

    grid = SweepGrid(
        fractions=asked.heads,
        clusterings=asked.clusterings,
        criteria=asked.criterion,
        actions=asked.action,
        draws=asked.random,
        loss=asked.loss,
        slope=asked.slope,
        gqa=asked.gqa,
        seed=asked.seed,
    )
    settings = SweepSettings(
        model=asked.model,
        data=asked.data,
        sweep=grid,
        output=run_folder(asked.output, asked.model.short_name, "sweep"),
        prompts=asked.prompts,
        also=asked.also,
        lm_eval=asked.lm_eval,
        measure_speed=asked.measure_speed,
        command=asked.command,
    )
    show_sweep(settings, screen)


@settings
class CompareOptions(SharedOptions):
    """What `deadhead compare` takes."""

    data: DataSettings = part()
    heads: tuple[float, ...] = shares_option((0.25, 0.5, 0.75, 0.9))
    repair: tuple[Repair, ...] = option(
        default=("none", DEFAULT_REPAIR),
        shown=f"none,{DEFAULT_REPAIR}",
        help="Each of these repairs for every criterion, with commas.",
        parse=lambda text: tuple(dict.fromkeys(text.replace(" ", "").split(","))),
    )
    criteria: tuple[str, ...] = names_option(
        ("all",),
        "Criteria with commas, or all (but file, random, shapley). Each removes its lowest"
        " scores at once; reconstruction, which knows every mask from one pass, greedily; auto is"
        " what 'deadhead prune' does if no method is named.",
        ("--criteria", "-c"),
    )
    greedy: tuple[str, ...] = names_option(
        (),
        "Criteria that also remove head by head and score again after each, a pass a head; or"
        " none.",
    )
    search: tuple[str, ...] = names_option(
        (), "Criteria that also swap heads afterwards (reconstruction); or none."
    )
    random: int = option(
        default=20, help="Draws of random heads, with every repair; 20 for a band.", panel=METHOD
    )
    distill_of: tuple[str, ...] = option(
        default=(),
        shown="all",
        help='Rows that distill trains, as they are named in the table, with commas: "greedy'
        ' reconstruction,taylor". The others, and random heads always, get what it begins with.',
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

    def idle(self) -> set[str]:
        """Return the groups of options that do nothing here."""
        return set() if "distill" in self.repair else {"distill"}

    def grid(self) -> SweepGrid:
        """Return what is compared."""
        from deadhead.criteria import CRITERIA
        from deadhead.studies.grid import SweepGrid

        every = (AUTO, *(n for n, kind in CRITERIA.items() if kind.in_all))
        names = every if self.criteria == ("all",) else self.criteria
        free = [name for name in names if name != AUTO and _greedy_is_free(name)]
        methods: list[tuple[Strategy, str]] = [(AUTO, AUTO)] if AUTO in names else []
        methods.extend(("greedy", name) for name in (*free, *self.greedy))
        methods.extend(("search", name) for name in self.search)
        if not methods and not names:
            raise BudgetError("no criterion is named; give --criteria, --greedy or --search a name")
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


def show_sweep(settings: SweepSettings, screen: Resumable) -> None:
    """Run a sweep behind a progress bar and show its table."""
    from deadhead.report.sweep_page import INTERVALS, sweep_table
    from deadhead.runs.sweep import frame, run_sweep

    with watching(settings.kind, settings.output, hidden=screen.as_json) as watch:
        summary = run_sweep(settings, resume=screen.resume, watch=watch)
    files = files_of(settings.output, "sweep.json", "report.html")
    screen.end(
        {**files, "lines": frame(list(summary.lines)).to_dict("records")},
        sweep_table(summary),
        INTERVALS,
        f"report: {settings.output / 'report.html'}, table: {settings.output / 'sweep.csv'}",
        notes=summary.run["notes"],
    )
