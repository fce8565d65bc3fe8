"""What prune, sweep, compare and similarity were asked to do, and whom they tell of their work."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.display import Brief
from deadhead.errors import BudgetError, DataError
from deadhead.options.fields import option, part, settings
from deadhead.options.settings import (
    CLUSTERS,
    LM_EVAL,
    OUTPUT,
    PROMPTS,
    Clustering,
    Distillation,
    batch_size_option,
    folder_option,
    run_folder,
    seed_option,
    speed_option,
    trust_option,
)
from deadhead.options.values import parse_amount, parse_names, show_amount
from deadhead.pruning.recipe import Recipe
from deadhead.runs.settings import DataSettings, ModelSettings, PromptOptions, PromptSettings

if TYPE_CHECKING:
    from deadhead.studies.grid import SweepGrid

OF_GROUPINGS = {"groupings", "importance", "prompts", "prompt details"}


def idle_of_recipe(recipe: Recipe, prompts: Any) -> set[str]:
    """Return the groups of options that a recipe does not look at."""
    idle = {"heads"} if recipe.budget is not None else set()
    if recipe.repair != "distill":
        idle.add("distill")
    if not recipe.makes_groups:
        return idle | OF_GROUPINGS
    if not recipe.needs_scores:
        idle.add("scores")
    if not recipe.needs_prompts:
        idle |= {"prompts", "prompt details"}
    # of a recipe `strict` is about more than prompts
    return idle | {"steps"} | idle_of_clusterings([recipe.clustering], prompts) - {"strict"}


def idle_of_clusterings(clusterings: Sequence[Clustering], prompts: Any) -> set[str]:
    """Return the groups of options that none of the groupings looks at."""
    if not clusterings:
        return OF_GROUPINGS | {"strict"}
    idle = set() if prompts else {"prompt details", "strict"}
    return idle if any(c.needs_importance for c in clusterings) else idle | {"importance"}


@dataclass
class Watch:
    """Callbacks of a run: how much work is to come (again if it changes), what is done, notes."""

    on_total: Callable[[int], None] = lambda total: None
    on_work: Callable[[str], None] = lambda what: None
    on_note: Callable[[str], None] = lambda line: None


NOT_COMPARED = ("output", "command", "measure_speed", "save")  # a run may go on with others


class _Resumable:
    def header(self: Any) -> dict[str, Any]:
        """Return all of the settings that decide on a result: a JSON value."""
        values = {k: v for k, v in asdict(self).items() if k not in NOT_COMPARED}
        return json.loads(json.dumps(values, default=str))  # paths


@settings
class RunSettings(_Resumable):
    """A whole `deadhead prune`; `recipe` becomes the settled one, `command` is as it was typed."""

    model: ModelSettings = part()
    data: DataSettings = part()
    recipe: Recipe = part(factory=Recipe)
    prompts: PromptSettings | None = part(default=None)
    output: Path = folder_option()
    random: int = option(
        default=0,
        help="Also evaluate this many random rankings, as a baseline (20 or more).",
        panel=OUTPUT,
    )
    random_fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    measure_speed: bool = speed_option("Time the model before and after.")
    save: bool = option(
        default=True, flags=("--save/--no-save",), help="Write the cut checkpoint.", panel=OUTPUT
    )
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        asked, recipe = self.recipe, self.recipe.settled()
        how = (asked.criterion, asked.strategy)
        if asked.makes_groups:
            how = (asked.clustering.distance, asked.clustering.grouping, asked.action)
        folder = run_folder(self.output, self.model.short_name, *how, show_amount(asked.heads))
        object.__setattr__(self, "output", folder)
        object.__setattr__(self, "recipe", recipe)
        if recipe.repair == "distill":
            from deadhead.repair.distill import check_packages

            check_packages(recipe.distillation)
        if self.random < 0:
            raise BudgetError(f"{self.random} random draws; give 0 (none) or more, 20 for a band")

    def idle(self) -> set[str]:
        """Return the groups of options that do nothing here."""
        return idle_of_recipe(self.recipe, self.prompts)


@settings
class LmEvalSettings:
    """Which tasks of lm-eval judge as well; see `run_lm_eval`."""

    tasks: tuple[str, ...] = option(
        flags=("--lm-eval",),
        help="Tasks and groups of lm-evaluation-harness that judge as well, as hellaswag,arc_easy"
        " (needs deadhead[eval]).",
        panel=LM_EVAL,
        parse=parse_names,
        kw_only=False,
    )
    include_path: Path | None = option(
        default=None,
        help="Folder of lm-eval task files of your own.",
        panel=LM_EVAL,
        group="lm-eval",
    )
    num_fewshot: int | None = option(
        default=None, help="Solved examples in each prompt.", panel=LM_EVAL, group="lm-eval"
    )
    limit: int | None = option(
        default=None, help="Examples per task at most.", panel=LM_EVAL, group="lm-eval"
    )
    batch_size: int | None = batch_size_option()
    seed: int = seed_option()
    trust_remote_code: bool = trust_option()


@dataclass(frozen=True, repr=False)
class SweepSettings(_Resumable, Brief):
    """A whole `deadhead sweep` or `compare`, as `kind` says.

    Attributes:
        prompts: what heads are compared on; None: the calibration data.
        also: further test sets, read by the same kind and columns as `data`.
        lm_eval: tasks and groups of lm-eval that judge as well.
        measure_speed: time the models that are smaller.
        measure_size: cut the models that get smaller, and measure them; else outputs are judged.
        command: the command as it was typed; not compared on resume.
    """

    model: ModelSettings
    data: DataSettings
    sweep: SweepGrid
    output: Path
    prompts: PromptSettings | None = None
    also: tuple[str, ...] = ()
    lm_eval: LmEvalSettings | None = None
    distillation: Distillation = field(default_factory=Distillation)
    measure_speed: bool = True
    measure_size: bool = True
    kind: str = "sweep"
    command: str = field(default="", compare=False)


BUNDLED = {"bundled:encoder": "bundled:sentiment", "bundled:decoder": "bundled:text"}


@settings
class SimilaritySettings(PromptOptions):
    """A whole `deadhead similarity`."""

    model: ModelSettings = part()
    prompts: tuple[str, ...] = option(
        default=(),
        help="Texts that heads are compared on: a file (prompt TAB id, .txt, .jsonl, .csv), FILE"
        "[0:800], a folder, a datasets id. Given again: prompts whose groups are compared with"
        " those of the first.",
    )
    heads: int | float = option(
        default=0.5,
        help="How many heads to remove: 36, 50%, or 0.5.",
        parse=parse_amount,
        shown="50%",
    )
    output: Path = folder_option()
    draws: int = option(
        default=10, help="Draws of prompts whose groups are compared.", panel=PROMPTS
    )
    clustering: Clustering = part(factory=Clustering, without=("importance",))
    importance: str | None = option(
        default=None,
        help="A criterion (taylor), scored on the first prompts, or a table of scores (FILE,"
        " FILE:KEY): shows which important heads would be removed at 10% to 90%, and makes the"
        " budgets of importance_budget.",
        panel=CLUSTERS,
    )
    important: int | float = option(
        default=0.25,
        help="How many heads --importance calls important: 36, 25%, or 0.25.",
        panel=CLUSTERS,
        parse=parse_amount,
        shown="25%",
        group="important",
    )
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        from deadhead.scoring.spec import CriterionSpec

        if self.importance is not None:
            named = replace(self.clustering, importance=self.importance)
            object.__setattr__(self, "clustering", named)
        how = self.clustering
        parts = ("similarity", how.distance, how.grouping, show_amount(self.heads))
        folder = run_folder(self.output, self.model.short_name, *parts)
        object.__setattr__(self, "output", folder)
        if self.draws < 1:
            raise BudgetError(f"{self.draws} draws of prompts; give 1 or more")
        twice = [spec for spec in self.prompts if self.prompts.count(spec) > 1]
        if twice:
            raise DataError(f"the prompts {twice[0]!r} are given twice; give each once")
        if self.clustering.grouping == "importance_budget" and self.importance is None:
            raise DataError(
                "grouping 'importance_budget' needs importance; give --importance a criterion"
                " (taylor) or a file of scores"
            )
        if self.importance is not None and not self.importance_is_file:
            CriterionSpec.parse(self.importance)

    @property
    def importance_is_file(self) -> bool:
        """Whether `importance` names a file, rather than a criterion."""
        from deadhead.interop import split_key
        from deadhead.interop.importance import ENDINGS

        path, _ = split_key(self.importance or "")
        return path.suffix.lower() in ENDINGS or path.is_file()

    @property
    def scores_on_prompts(self) -> bool:
        """Whether importance has to be scored on prompts."""
        if self.importance is None or self.importance_is_file:
            return False
        from deadhead.scoring.spec import CriterionSpec

        return CriterionSpec.parse(self.importance).uses_data

    @property
    def sources(self) -> dict[str, str]:
        """Short name of each of `prompts`; bundled models have prompts of their own."""
        from deadhead.data.formats import split_slice

        specs = self.prompts or tuple(filter(None, [BUNDLED.get(self.model.source)]))
        if not specs:
            raise DataError(
                "no prompts are named; give --prompts a file, FILE[0:800], a folder or a datasets"
                " id (bundled:text needs no files)"
            )
        short = [Path(split_slice(spec)[0]).name.split(".")[0] or spec for spec in specs]
        return dict(zip(short if len(set(short)) == len(short) else specs, specs, strict=True))

    def idle(self) -> set[str]:
        """Return the groups of options that do nothing here."""
        return {"important"} if self.importance is None else set()
