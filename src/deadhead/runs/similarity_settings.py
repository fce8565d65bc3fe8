"""What `deadhead similarity` was asked to do, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path

from deadhead.errors import BudgetError, DataError
from deadhead.options.amounts import parse_amount, show_amount
from deadhead.options.clustering import Clustering
from deadhead.options.fields import option, part, settings
from deadhead.options.flags import (
    folder_option,
    max_length_option,
    run_folder,
    seed_option,
    size_option,
)
from deadhead.options.panels import CLUSTERS, PROMPTS
from deadhead.runs.settings import ModelSettings

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
