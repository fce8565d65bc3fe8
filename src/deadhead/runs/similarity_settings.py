"""What `deadhead similarity` was asked to do, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deadhead.data.rows import split_slice
from deadhead.errors import BudgetError, DataError
from deadhead.interop import split_key
from deadhead.interop.importance import ENDINGS
from deadhead.runs.settings import ModelSettings
from deadhead.scoring.spec import CriterionSpec
from deadhead.similarity import Clustering

BUNDLED = {"bundled:encoder": "bundled:sentiment", "bundled:decoder": "bundled:text"}


@dataclass(frozen=True)
class SimilaritySettings:
    """A whole `deadhead similarity`.

    Attributes:
        model, clustering: see there.
        prompts: where prompts are; the first are grouped by, the others compared with them.
        n: prompts of one draw; None: all.
        heads: how many are to go: `int` counts, `float` in (0, 1] is a fraction.
        importance: a file of scores, with `:KEY` behind it if it holds several tables; or a
            criterion that is scored on the first prompts.
        important: how many of the heads are called important.
        draws: draws of `n` prompts from each of `prompts`, to compare their groups.
        column, max_length, strict: see `open_prompts`.
        output: the folder.
        command: the command as it was typed.
    """

    model: ModelSettings
    clustering: Clustering
    output: Path
    prompts: tuple[str, ...] = ()
    n: int | None = 100
    heads: int | float = 0.5
    importance: str | None = None
    important: int | float = 0.25
    draws: int = 10
    column: str | None = None
    max_length: int | None = None
    strict: bool = False
    seed: int = 0
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
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
        path, _ = split_key(self.importance or "")
        return path.suffix.lower() in ENDINGS or path.is_file()

    @property
    def scores_on_prompts(self) -> bool:
        """Whether importance has to be scored on prompts."""
        if self.importance is None or self.importance_is_file:
            return False
        return CriterionSpec.parse(self.importance).uses_data

    @property
    def sources(self) -> dict[str, str]:
        """Short name of each of `prompts`; bundled models have prompts of their own.

        Raises:
            DataError: no prompts are named.
        """
        specs = self.prompts or tuple(filter(None, [BUNDLED.get(self.model.source)]))
        if not specs:
            raise DataError(
                "no prompts are named; give --prompts a file, FILE[0:800], a folder or a datasets"
                " id (bundled:text needs no files)"
            )
        short = [Path(split_slice(spec)[0]).name.split(".")[0] or spec for spec in specs]
        return dict(zip(short if len(set(short)) == len(short) else specs, specs, strict=True))
