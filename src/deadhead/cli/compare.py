"""deadhead compare: every criterion and repair beside the random baseline, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deadhead.cli.options import Resumable
from deadhead.cli.sweep import SharedOptions, show_sweep
from deadhead.errors import BudgetError
from deadhead.options.amounts import parse_names, parse_shares
from deadhead.options.choices import Repair, Strategy
from deadhead.options.distillation import Distillation
from deadhead.options.fields import option, part, settings
from deadhead.options.flags import folder_option, run_folder, strict_option
from deadhead.options.panels import DISTILL, METHOD
from deadhead.pruning.recipe import AUTO
from deadhead.runs.idle import NO_DISTILL
from deadhead.runs.settings import DataSettings, ModelSettings
from deadhead.runs.sweep_settings import SweepSettings

if TYPE_CHECKING:
    from deadhead.studies.grid import SweepGrid

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
