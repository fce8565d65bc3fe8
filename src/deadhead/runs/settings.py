"""Which model, data and prompts a command works on, as plain values. No torch in here."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.errors import CheckpointError, DataError, UnknownNameError
from deadhead.files import as_path
from deadhead.options.fields import check_choices, option, settings
from deadhead.options.settings import (
    DATA,
    MODEL,
    PROMPTS,
    batch_size_option,
    max_length_option,
    seed_option,
    size_option,
    strict_option,
    trust_option,
)
from deadhead.options.values import Dtype, Kind

if TYPE_CHECKING:
    from deadhead.checkpoints import Loaded
    from deadhead.data.prompts import Prompts
    from deadhead.tasks import Task, TaskSet

MIB = 2**20
# of `DataSettings`, what a command that only calibrates has no use for
JUDGING = ("compute_metrics", "metric", "lower_is_better")
TESTING = ("selection", "train", "test", "test_size", *JUDGING)
# of `DataSettings`, what a calibration set alone has no use for
_OF_SEVERAL = (*TESTING, "spec", "calibration", "selection_size", "allow_overlap")

of_data = partial(option, panel=DATA)
of_model = partial(option, panel=MODEL)


@settings
class ModelSettings:
    """Which model, and how it is loaded; see `load_model`."""

    source: str = option(
        help="Folder of a checkpoint (cut or uncut), a model id, bundled:encoder, or"
        " bundled:decoder.",
        metavar="MODEL",
        kw_only=False,
    )
    device: str = of_model(default="cpu", help="cpu, cuda, cuda:1, mps.")
    dtype: Dtype | None = of_model(default=None, help="By default as saved.")
    trust_remote_code: bool = trust_option()
    derive: bool = of_model(
        default=False,
        help="Find and prove where the heads are, on a tiny random model, if the model type has no"
        " record.",
    )

    def __post_init__(self) -> None:
        check_choices(self)

    def load(self) -> Loaded:
        """Load the model and its tokenizer, once its type's record is known to hold."""
        from deadhead.checkpoints import load_model

        options = asdict(self)
        if options.pop("derive"):
            from deadhead.derivation.code import derive_record

            derive_record(self._config())
        else:
            self._check_record()
        return load_model(options.pop("source"), **options)

    def _check_record(self) -> None:
        from deadhead.models.architectures import has_derived

        config = None
        with contextlib.suppress(CheckpointError, UnknownNameError):  # loading says it better
            config = self._config()
        if config is not None and has_derived(config.model_type):
            from deadhead.derivation.derive import check_derived

            check_derived(config)

    def _config(self) -> Any:
        """Return the model's config; records that the checkpoint carries are known then."""
        from deadhead.checkpoints.load import config_of
        from deadhead.models.manifest import register_carried

        config = config_of(self.source, trust_remote_code=self.trust_remote_code)
        register_carried(config.model_type, getattr(config, "quantization_config", None) or {})
        return config

    @property
    def short_name(self) -> str:
        """What folders of its runs are called by."""
        return Path(self.source).name.replace(":", "-")

    @property
    def folder(self) -> Path | None:
        """The local folder that `source` names; None for a bundled model or a hub id."""
        path = as_path(self.source, "a model")
        return path if not self.source.startswith("bundled:") and path.is_dir() else None

    @property
    def hub_id(self) -> str | None:
        """The model's id on the Hugging Face Hub, if it comes from there."""
        local = self.source.startswith("bundled:") or self.folder is not None
        return None if local else self.source

    def fingerprint(self) -> str | None:
        """Return a short hex that changes with the files of a local folder; else None.

        It covers names, sizes, times and the first MiB of each file, where safetensors keep the
        shapes: reading the weights of a large model takes too long.
        """
        if self.folder is None:
            return None
        digest = blake2b(digest_size=6)
        for file in sorted([*self.folder.glob("*.safetensors"), self.folder / "config.json"]):
            about = file.stat()
            digest.update(f"{file.name} {about.st_size} {about.st_mtime_ns}\n".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(MIB))
        return digest.hexdigest()


@settings
class DataSettings:
    """Which data; see `open_task`.

    Attributes:
        selection_size: as `test_size`, of the selection set.
    """

    spec: str | None = option(
        default=None,
        flags=("--task", "-t"),
        help="Data to calibrate and test on: a folder with train/dev/test files, a file (its first"
        " 80% calibrate, its last 20% test), FILE[0:800], a folder of images by class, a datasets"
        " id, or bundled:sentiment, bundled:agreement, bundled:text.",
        kw_only=False,
        group="data",
    )
    calibration: tuple[str, ...] = option(
        default=(),
        help="Texts to score and repair on, instead of --task's; labels are not needed. Give"
        " several to mix them, FILE=0.25 for a weight.",
        group="calibration",
    )
    kind: Kind | None = of_data(
        default=None,
        help="What the model is judged on; by default read from the columns.",
        group="data",
    )
    selection: str | None = of_data(
        default=None, help="Data that stopping rules and distill evaluate on."
    )
    train: str | None = of_data(
        default=None,
        help="Text without labels that distill trains on, instead of all calibration data.",
        group="distill",
    )
    test: str | None = of_data(default=None, help="Data to report on, once.")
    text_column: str | None = of_data(default=None, help="Column of the text.", group="data")
    text_pair_column: str | None = of_data(
        default=None, help="Column of the second text of a pair.", group="data"
    )
    label_column: str | None = of_data(default=None, help="Column of the label.", group="data")
    media_column: str | None = of_data(
        default=None, help="Column of the images or recordings.", group="data"
    )
    calibration_size: int | None = size_option(
        512,
        "512",
        "Examples to score and repair on, drawn at random; or all.",
        panel=DATA,
        group="calibration",
    )
    selection_size: int | None = None
    test_size: int | None = size_option(
        None, "all", "Examples to report on, drawn at random; or all.", panel=DATA, group="data"
    )
    compute_metrics: str | None = of_data(
        default=None,
        help="Judge by a function of your own, FILE.py:FUNCTION, as the Trainer takes it; this runs"
        " the file.",
        group="data",
    )
    metric: str | None = of_data(
        default=None,
        help="Which number judges, of those that the task or --compute-metrics gives.",
        group="data",
    )
    lower_is_better: bool = of_data(
        default=False, help="Less of the metric is better; known of the tasks' own.", group="data"
    )
    batch_size: int | None = batch_size_option()
    max_length: int | None = max_length_option()
    allow_overlap: bool = of_data(
        default=False, help="Let calibration, selection and test share examples."
    )
    seed: int = seed_option()

    def open(self, reader: Any, config: Any) -> TaskSet:
        """Open the sets; calibration texts alone make a `held_out` set instead of a test set."""
        if self.spec is None and not self.calibration:
            raise DataError(
                "no data is named; give --task, or texts to calibrate on with --calibration"
                " (bundled:sentiment and bundled:agreement need no files)"
            )
        from deadhead.tasks import open_task

        need_reader(reader)
        options = asdict(self)
        options["judged"] = self.spec is not None or self.test is not None
        options["greater_is_better"] = False if options.pop("lower_is_better") else None
        if self.compute_metrics is not None:
            from deadhead.tasks.metrics import function_in

            options["compute_metrics"] = function_in(self.compute_metrics)
        return open_task(options.pop("spec"), reader, config=config, **options)

    def open_one(self, role: str, reader: Any, config: Any) -> Task:
        """Open the `calibration` or `test` set alone, for commands that need no other.

        The other sets may be missing, and may overlap with it. Calibration texts need no labels.
        """
        given = getattr(self, role) or self._file_of(role)
        if not given and self.spec is None:
            raise DataError(
                f"no data is named; give --task or --{role}"
                " (bundled:sentiment and bundled:agreement need no files)"
            )
        if role == "calibration" and given:
            from deadhead.tasks import open_calibration

            need_reader(reader)
            of_one = {k: v for k, v in asdict(self).items() if k not in _OF_SEVERAL}
            return open_calibration(given, reader, config=config, **of_one)
        alone = replace(self, train=None, allow_overlap=True)
        if given:
            alone = replace(alone, spec=None, calibration=(given,), selection=None, test=given)
        return getattr(alone.open(reader, config), role)

    def _file_of(self, role: str) -> str | None:
        """Return the file or folder of one role, if `spec` names a folder that has them."""
        from deadhead.data.formats import split_slice
        from deadhead.data.splits import is_saved, paths_of_splits

        place, _ = split_slice(self.spec or "")
        folder = as_path(place, "data")
        if not self.spec or not folder.is_dir() or is_saved(folder):
            return None
        file = paths_of_splits(folder).get(role)
        return None if file is None else f"{file}{self.spec.removeprefix(place)}"


def need_reader(reader: Any) -> None:
    """Refuse a model without a tokenizer or processor."""
    if reader is None:
        raise DataError(
            "the model has no tokenizer to read text with; put its tokenizer files"
            " (tokenizer.json, tokenizer_config.json), or its preprocessor_config.json for images"
            " and sound, into the folder"
        )


def need_tokenizer(tokenizer: Any) -> None:
    """Refuse a model without a tokenizer."""
    if tokenizer is None:
        raise DataError(
            "the model has no tokenizer to read text with; put its tokenizer files"
            " (tokenizer.json, tokenizer_config.json) into the folder"
        )


@settings
class PromptOptions:
    """How prompts are drawn and read."""

    n: int | None = size_option(
        100,
        "100",
        "Prompts to draw at random; or all.",
        "--n-prompts",
        "-n",
        panel=PROMPTS,
        group="prompt details",
    )
    column: str | None = option(
        default=None,
        flags=("--prompt-column",),
        help="Column of the prompts.",
        panel=PROMPTS,
        group="prompt details",
    )
    max_length: int | None = max_length_option()
    strict: bool = strict_option()
    seed: int = seed_option()


@settings
class PromptSettings(PromptOptions):
    """Which prompts heads are compared on; see `open_prompts`."""

    spec: str = option(
        flags=("--prompts",),
        help="Texts that heads are compared on: a file (prompt TAB id, .txt, .jsonl, .csv), FILE"
        "[0:800], a folder, a datasets id; by default the calibration data.",
        panel=PROMPTS,
        kw_only=False,
        group="prompts",
    )

    def open(self, tokenizer: Any, config: Any) -> Prompts:
        """Open them."""
        from deadhead.data.prompts import open_prompts

        options = asdict(self)
        return open_prompts(options.pop("spec"), tokenizer, config=config, **options)


def table_fingerprint(spec: str | None) -> str | None:
    """Return a short hex of a table of importance, perhaps with `:KEY` behind it; None if none."""
    from deadhead.interop import split_key

    if spec is None:
        return None
    file, _ = split_key(spec)
    if not file.is_file():
        raise DataError(f"{spec!r} is not there; give a table of importance")
    return blake2b(file.read_bytes(), digest_size=6).hexdigest()
