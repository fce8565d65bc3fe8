"""What prune, sweep, compare and similarity were asked to do, and which options do nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    max_length_option,
    run_folder,
    seed_option,
    size_option,
    speed_option,
    trust_option,
)
from deadhead.options.values import parse_amount, parse_names, show_amount
from deadhead.pruning.recipe import Recipe
from deadhead.runs.settings import DataSettings, ModelSettings, PromptSettings

if TYPE_CHECKING:
    from deadhead.studies.grid import SweepGrid

OF_CLUSTERS = ("clusters", "importance", "prompts", "prompt details")
NO_DISTILL = "is for --repair distill; name it, or leave this out"
NO_PROMPTS = (
    "is about prompts, and without --prompts heads are compared on the calibration data; name"
    " prompts, or leave it out"
)
NO_GROUPS = "is for groupings, and there is none to look at; leave it out, or name --grouping"
NO_LM_EVAL = "is for lm-eval, and no task of it is named; name one with --lm-eval, or leave it out"


def idle_of_recipe(recipe: Recipe, prompts: Any) -> Mapping[str, str]:
    """Say of each group of options that a recipe does not look at, why."""
    idle: dict[str, str] = {}
    if recipe.budget is not None:
        idle["heads"] = "and --budget both say where to end; leave one out"
    if recipe.repair != "distill":
        idle["distill"] = NO_DISTILL
    if not recipe.makes_groups:
        why = (
            f"is for strategy 'clusters', and the strategy is {recipe.strategy!r}; leave it out, or"
            " choose --strategy clusters"
        )
        return idle | dict.fromkeys(OF_CLUSTERS, why)
    idle["steps"] = (
        "means nothing to strategy 'clusters', which removes all heads in one move; leave it out"
    )
    if not recipe.needs_scores:
        idle["scores"] = _without_scores(recipe.clustering)
    idle |= idle_of_clusterings([recipe.clustering], prompts)
    if not recipe.needs_prompts:
        why = (
            "is for comparing heads, and random groups with random representatives compare none;"
            " leave it out"
        )
        idle |= dict.fromkeys(("prompts", "prompt details"), why)
    idle.pop("strict", None)  # of a recipe it is about more than prompts
    return idle


def idle_of_clusterings(clusterings: Sequence[Clustering], prompts: Any) -> dict[str, str]:
    """Say of each group of options that none of the groupings looks at, why."""
    if not clusterings:
        return dict.fromkeys((*OF_CLUSTERS, "strict"), NO_GROUPS)
    groupings = [clustering.grouping for clustering in clusterings]
    idle: dict[str, str] = {}
    if prompts is None:
        idle |= dict.fromkeys(("prompt details", "strict"), NO_PROMPTS)
    if "importance_budget" not in groupings:
        idle["importance"] = (
            f"is for grouping 'importance_budget', and there is {', '.join(groupings)} only; leave"
            " it out, or choose --grouping importance_budget"
        )
    return idle


def _without_scores(clustering: Clustering) -> str:
    if clustering.importance is not None:
        return "is for scoring heads, and --importance has their scores; leave one of them out"
    return (
        f"is for scoring heads, and grouping {clustering.grouping!r} looks at no scores; leave it"
        " out, or choose --grouping importance_budget"
    )


NOT_COMPARED = ("output", "command", "measure_speed", "save")  # a run may go on with others


@settings
class RunSettings:
    """A whole `deadhead prune`.

    Attributes:
        recipe: becomes the settled one.
        prompts: for the strategy `clusters`; None: the calibration data.
        random_fractions: where the random baseline is evaluated.
        command: the command as it was typed; not compared on resume.

    Raises:
        BudgetError: fewer than no draws.
        MissingDependencyError: the repair `distill` needs a package that is not installed.
    """

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
        object.__setattr__(self, "output", self._folder(asked))
        object.__setattr__(self, "recipe", recipe)
        if recipe.repair == "distill":
            from deadhead.repair.distill import check_packages

            check_packages(recipe.distillation)
        if self.random < 0:
            raise BudgetError(f"{self.random} random draws; give 0 (none) or more, 20 for a band")

    def _folder(self, asked: Recipe) -> Path:
        how = (asked.clustering.distance, asked.clustering.grouping, asked.action)
        if not asked.makes_groups:
            how = (asked.criterion, asked.strategy)
        parts = (self.model.short_name, *how, show_amount(asked.heads))
        return run_folder(self.output, *parts)

    def header(self) -> Mapping[str, Any]:
        """What has to be the same when a run goes on: a JSON value."""
        return header_of(self)

    def idle(self) -> Mapping[str, str]:
        """Say of each group of options that does nothing here, why."""
        return idle_of_recipe(self.recipe, self.prompts)


def header_of(asked: Any) -> Mapping[str, Any]:
    """Return all of the settings that decide on a result: a JSON value."""
    values = {k: v for k, v in asdict(asked).items() if k not in NOT_COMPARED}
    return json.loads(json.dumps(values, default=str))  # paths


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
class SweepSettings(Brief):
    """A whole `deadhead sweep`.

    Attributes:
        model, data, sweep: see there.
        output: the folder.
        prompts: what heads are compared on; None: the calibration data.
        also: further test sets, read by the same kind and columns as `data`: where it names none,
            each as its own columns say.
        lm_eval: tasks and groups of lm-eval that judge as well; of a group without a metric of its
            own, and of a tag, each task.
        distillation: how the repair `distill` trains.
        measure_speed: time the models that are smaller.
        measure_size: cut the models that get smaller, and measure their size; else only their
            outputs are judged.
        kind: what it is called in its title: sweep or compare.
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

    def header(self) -> Mapping[str, Any]:
        """What has to be the same when a sweep goes on: a JSON value."""
        return header_of(self)


BUNDLED = {"bundled:encoder": "bundled:sentiment", "bundled:decoder": "bundled:text"}


@settings
class SimilaritySettings:
    """A whole `deadhead similarity`.

    Attributes:
        command: the command as it was typed.
    """

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
    n: int | None = size_option(
        100, "100", "Prompts to draw at random; or all.", "--n-prompts", "-n", panel=PROMPTS
    )
    draws: int = option(
        default=10, help="Draws of prompts whose groups are compared.", panel=PROMPTS
    )
    column: str | None = option(
        default=None, flags=("--prompt-column",), help="Column of the prompts.", panel=PROMPTS
    )
    max_length: int | None = max_length_option()
    strict: bool = option(
        default=False,
        help="Refuse prompts longer than the model's context, instead of cutting them with a note.",
        panel=PROMPTS,
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
    seed: int = seed_option()
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
        """Short name of each of `prompts`; bundled models have prompts of their own.

        Raises:
            DataError: no prompts are named.
        """
        from deadhead.data.rows import split_slice

        specs = self.prompts or tuple(filter(None, [BUNDLED.get(self.model.source)]))
        if not specs:
            raise DataError(
                "no prompts are named; give --prompts a file, FILE[0:800], a folder or a datasets"
                " id (bundled:text needs no files)"
            )
        short = [Path(split_slice(spec)[0]).name.split(".")[0] or spec for spec in specs]
        return dict(zip(short if len(set(short)) == len(short) else specs, specs, strict=True))

    def idle(self) -> Mapping[str, str]:
        """Say of each group of options that does nothing here, why."""
        why = (
            "counts heads by --importance, which is not given; give it a criterion or a table, or"
            " leave it out"
        )
        return {} if self.importance is not None else {"important": why}
