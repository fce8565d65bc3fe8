"""What a run was asked to do, as plain values: the same settings, the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deadhead.errors import BudgetError, DataError
from deadhead.pruning import Recipe
from deadhead.tasks import Task, TaskSet, open_task


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is loaded; see `load_model`."""

    source: str
    device: str = "cpu"
    dtype: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class DataSettings:
    """Which data; see `open_task`."""

    spec: str | None = None
    kind: str | None = None
    calibration: str | None = None
    selection: str | None = None
    test: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    calibration_size: int | None = 512
    selection_size: int | None = None
    test_size: int | None = None
    batch_size: int | None = None
    max_length: int | None = None
    seed: int = 0
    allow_overlap: bool = False

    def open(self, tokenizer: Any, config: Any) -> TaskSet:
        """Open the three sets.

        Raises:
            DataError: no data is named, or as `open_task`.
        """
        if self.spec is None and (self.calibration is None or self.test is None):
            raise DataError(
                "no data is named; give --task, or both --calibration and --test"
                " (bundled:sentiment and bundled:agreement need no files)"
            )
        if tokenizer is None:
            raise DataError(
                "the model has no tokenizer to read text with; put its tokenizer files"
                " (tokenizer.json, tokenizer_config.json) into the folder"
            )
        options = asdict(self)
        return open_task(options.pop("spec"), tokenizer, config=config, **options)

    def open_one(self, role: str, tokenizer: Any, config: Any) -> Task:
        """Open the `calibration` or `test` set alone, for commands that look at no other.

        Raises:
            DataError: as `open`.
        """
        given = getattr(self, role)
        if given is None and self.spec is None:
            raise DataError(
                f"no data is named; give --task or --{role}"
                " (bundled:sentiment and bundled:agreement need no files)"
            )
        if given is None:
            return getattr(self.open(tokenizer, config), role)
        alone = replace(self, spec=None, calibration=given, selection=None, test=given)
        return getattr(replace(alone, allow_overlap=True).open(tokenizer, config), role)


@dataclass(frozen=True)
class RunSettings:
    """A whole `deadhead prune`.

    Attributes:
        model, data, recipe: see there.
        output: folder of the run.
        random: draws of the random baseline; 0: none.
        random_fractions: where it is evaluated.
        measure_speed: time the model before and after.
        save: write the cut checkpoint.
        command: the command as it was typed; not compared on resume.
    """

    model: ModelSettings
    data: DataSettings
    recipe: Recipe
    output: Path
    random: int = 0
    random_fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    measure_speed: bool = True
    save: bool = True
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.random < 0:
            raise BudgetError(f"{self.random} random draws; give 0 (none) or more, 20 for a band")

    def header(self) -> Mapping[str, Any]:
        """What has to be the same when a run goes on: a JSON value."""
        values = {
            "model": asdict(self.model),
            "data": asdict(self.data),
            "recipe": asdict(self.recipe),
            "random": [self.random, *self.random_fractions],
        }
        return json.loads(json.dumps(values))
