"""What a run was asked to do, as plain values: the same settings, the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from deadhead.data.prompts import Prompts, open_prompts
from deadhead.data.rows import data_files, split_slice
from deadhead.data.splits import ROLES
from deadhead.errors import BudgetError, DataError
from deadhead.interop import split_key
from deadhead.pruning.recipe import Recipe
from deadhead.repair.distill import check_packages
from deadhead.tasks import Task, TaskSet, open_calibration, open_task

MIB = 2**20
# of `DataSettings`, what a calibration set alone has no use for
_OF_SEVERAL = (
    *("spec", "calibration", "selection", "train", "test"),
    *("selection_size", "test_size", "allow_overlap"),
)


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is loaded; see `load_model`."""

    source: str
    device: str = "cpu"
    dtype: str | None = None
    trust_remote_code: bool = False

    @property
    def folder(self) -> Path | None:
        """The local folder that `source` names; None for a bundled model or a hub id."""
        path = Path(self.source).expanduser()
        return path if not self.source.startswith("bundled:") and path.is_dir() else None

    @property
    def hub_id(self) -> str | None:
        """The model's id on the Hugging Face Hub, if it comes from there."""
        local = self.source.startswith("bundled:") or self.folder is not None
        return None if local else self.source

    def fingerprint(self) -> str | None:
        """Return a short hex that changes with the files of a local folder; else None.

        Read are names, sizes, times and the first MiB of each file, where safetensors keep the
        shapes: the weights of a large model take too long.
        """
        if self.folder is None:
            return None
        found = blake2b(digest_size=6)
        for file in sorted([*self.folder.glob("*.safetensors"), self.folder / "config.json"]):
            about = file.stat()
            found.update(f"{file.name} {about.st_size} {about.st_mtime_ns}\n".encode())
            with file.open("rb") as stream:
                found.update(stream.read(MIB))
        return found.hexdigest()


@dataclass(frozen=True)
class DataSettings:
    """Which data; see `open_task`."""

    spec: str | None = None
    kind: str | None = None
    calibration: str | None = None
    selection: str | None = None
    train: str | None = None
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
        _check_tokenizer(tokenizer)
        options = asdict(self)
        return open_task(options.pop("spec"), tokenizer, config=config, **options)

    def open_one(self, role: str, tokenizer: Any, config: Any) -> Task:
        """Open the `calibration` or `test` set alone, for commands that look at no other.

        The other sets may lack, and may overlap with it. Texts to calibrate on need no labels.

        Raises:
            DataError: as `open`.
        """
        given = getattr(self, role) or self._file_of(role)
        if given is None and self.spec is None:
            raise DataError(
                f"no data is named; give --task or --{role}"
                " (bundled:sentiment and bundled:agreement need no files)"
            )
        if role == "calibration" and given is not None:
            _check_tokenizer(tokenizer)
            of_one = {k: v for k, v in asdict(self).items() if k not in _OF_SEVERAL}
            return open_calibration(given, tokenizer, config=config, **of_one)
        alone = replace(self, train=None, allow_overlap=True)
        if given is not None:
            alone = replace(alone, spec=None, calibration=given, selection=None, test=given)
        return getattr(alone.open(tokenizer, config), role)

    def _file_of(self, role: str) -> str | None:
        """Return the file of one role in the folder that `spec` names, if that is how it is."""
        place, _ = split_slice(self.spec or "")
        folder = Path(place).expanduser()
        if not self.spec or not folder.is_dir():
            return None
        files = {file.stem.lower(): file for file in data_files(folder)}
        file = next((files[name] for name in ROLES[role] if name in files), None)
        return None if file is None else f"{file}{self.spec.removeprefix(place)}"


def _check_tokenizer(tokenizer: Any) -> None:
    if tokenizer is None:
        raise DataError(
            "the model has no tokenizer to read text with; put its tokenizer files"
            " (tokenizer.json, tokenizer_config.json) into the folder"
        )


@dataclass(frozen=True)
class PromptSettings:
    """Which prompts the strategy `clusters` compares heads on; see `open_prompts`."""

    spec: str
    n: int | None = 100
    column: str | None = None
    max_length: int | None = None
    strict: bool = False
    seed: int = 0

    def open(self, tokenizer: Any, config: Any) -> Prompts:
        """Open them.

        Raises:
            DataError: as `open_prompts`.
        """
        options = asdict(self)
        return open_prompts(options.pop("spec"), tokenizer, config=config, **options)


def table_fingerprint(spec: str | None) -> str | None:
    """Return a short hex of a table of importance, perhaps with `:KEY` behind it; None if none."""
    if spec is None:
        return None
    file, _ = split_key(spec)
    if not file.is_file():
        raise DataError(f"{spec!r} is not there; give a table of importance")
    return blake2b(file.read_bytes(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class RunSettings:
    """A whole `deadhead prune`.

    Attributes:
        model, data, recipe: see there; the recipe is settled.
        prompts: for `clusters`; None: the calibration data.
        output: folder of the run.
        random: draws of the random baseline; 0: none.
        random_fractions: where it is evaluated.
        measure_speed: time the model before and after.
        save: write the cut checkpoint.
        command: the command as it was typed; not compared on resume.

    Raises:
        BudgetError: fewer than no draws.
        MissingDependencyError: the repair `distill` needs a package that is not installed.
    """

    model: ModelSettings
    data: DataSettings
    recipe: Recipe
    output: Path
    random: int = 0
    random_fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    measure_speed: bool = True
    save: bool = True
    prompts: PromptSettings | None = None
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", self.recipe.settled())
        if self.recipe.repair == "distill":
            check_packages(self.recipe.distillation)
        if self.random < 0:
            raise BudgetError(f"{self.random} random draws; give 0 (none) or more, 20 for a band")

    def header(self) -> Mapping[str, Any]:
        """What has to be the same when a run goes on: a JSON value."""
        values = {
            "model": asdict(self.model),
            "data": asdict(self.data),
            "recipe": asdict(self.recipe),
            "random": [self.random, *self.random_fractions],
            "prompts": None if self.prompts is None else asdict(self.prompts),
        }
        return json.loads(json.dumps(values))
