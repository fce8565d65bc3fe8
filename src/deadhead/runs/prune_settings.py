"""What `deadhead prune` was asked to do, as plain values: the same settings, the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from deadhead.errors import BudgetError
from deadhead.options.amounts import show_amount
from deadhead.options.fields import option, part, settings
from deadhead.options.flags import folder_option, run_folder, speed_option
from deadhead.options.panels import OUTPUT
from deadhead.pruning.recipe import Recipe
from deadhead.runs.idle import idle_of_recipe
from deadhead.runs.settings import DataSettings, ModelSettings, PromptSettings

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
