"""Loading a model and its tokenizer by path, name or `bundled:` name, checked before it is read."""

from __future__ import annotations

import copy
import difflib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers.auto import AutoQuantizationConfig

from deadhead.checkpoints.loader import cut_to_manifest_
from deadhead.checkpoints.processors import has_processor, load_processor
from deadhead.checkpoints.transformers4 import manifest_of_pruned_heads
from deadhead.checkpoints.verify import (
    SAME_CHECKPOINT,
    check_layers,
    check_shapes,
    shapes_in,
    tensors_for,
    weight_files,
)
from deadhead.display import Brief
from deadhead.errors import CheckpointError, DeadheadError, UnknownNameError, unknown_name
from deadhead.files import as_path, one_line, read_json
from deadhead.models.architectures import records_named
from deadhead.models.manifest import DeadheadConfig, register_carried
from deadhead.models.sentence_modules import module_folders
from deadhead.models.wrappers import quantized
from deadhead.options.fields import check_arguments

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
DTYPES["float16"] = torch.float16


@dataclass(frozen=True, repr=False)
class Loaded(Brief):
    """A model in eval mode, its tokenizer (None if it has none), and the name to report it by.

    Attributes:
        trust_remote_code: whether code that comes with the checkpoint may run.
    """

    model: Any
    tokenizer: Any
    name: str
    trust_remote_code: bool = False

    @cached_property
    def processor(self) -> Any:
        """What turns images or sound into the model's inputs; None if it has no such files.

        It is loaded when it is first asked for: a model can be pruned without it.

        Raises:
            MissingDependencyError, CheckpointError: it cannot be loaded; see `load_processor`.
        """
        path = self.model.config.name_or_path
        if not path or not has_processor(path):
            return None
        return load_processor(path, trust_remote_code=self.trust_remote_code)

    @property
    def reader(self) -> Any:
        """What reads data for the model: its processor; its tokenizer, if it has no other."""
        return self.tokenizer if self.processor is None else self.processor


@check_arguments
def load_model(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """Load the model class that a checkpoint was saved from, cut or uncut.

    Args:
        source: a folder, a model id, or `bundled:encoder` / `bundled:decoder`.
        device: where to put it, e.g. `cuda:0`.
        dtype: `float32`, `bfloat16`, `float16` or `float64`; None: as saved.
        trust_remote_code: run code that comes with the checkpoint; only if the user says so.

    Raises:
        UnknownNameError: there is no such model, device or dtype.
        UnsupportedModelError: its type has no architecture record.
        CheckpointError: its files are not whole or contradict one another.
    """
    import transformers

    precision = "auto" if dtype is None else str(dtype).removeprefix("torch.")
    if precision not in (*DTYPES, "auto"):
        raise unknown_name("dtype", precision, DTYPES)
    wanted = _device(device)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    advice = "give a folder written by save_pretrained"
    try:
        path, name = _resolve(str(source))
        files = _check_folder(Path(path), trust_remote_code) if Path(path).is_dir() else []
        config = transformers.AutoConfig.from_pretrained(path, **options)
        records_named(config.model_type)
        advice = quantized(config) or advice
        model_class = _class_of(config)
        if getattr(config, "pruned_heads", None):
            config.quantization_config = manifest_of_pruned_heads(model_class, config)
            options["config"] = config
        if files:
            _check_fits(model_class, config, files, options)
        model, found = model_class.from_pretrained(
            path,
            dtype=DTYPES.get(precision, "auto"),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that we can say which
            output_loading_info=True,
            **options,
        )
        _check_whole(name, found)
        loaded = Loaded(model.to(wanted).eval(), _tokenizer(path, options), name, trust_remote_code)
    except DeadheadError:
        raise
    except Exception as error:  # transformers, its hub and its tokenizers: each has its own
        text = repr(error) if isinstance(error, LookupError) else str(error)  # a key says little
        first = (one_line(text, longest=400) or repr(error)).rstrip(".:; ")
        raise CheckpointError(f"cannot load {str(source)!r}: {first}; {advice}") from error
    return loaded


def config_of(source: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Read the config of a model: of a folder, which needs no weights, or by name as `load_model`.

    Raises:
        UnknownNameError, CheckpointError: as `load_model`.
    """
    import transformers

    path, _ = _resolve(str(source))
    folder = Path(path)
    if folder.is_dir():
        _check_code(folder.name, _read_config(folder), trust_remote_code)
    try:
        return transformers.AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # each config class has its own
        raise CheckpointError(
            f"cannot read the config of {str(source)!r}: {one_line(error, longest=300)}; give a"
            " folder written by save_pretrained"
        ) from error


def _check_code(name: str, values: dict[str, Any], trusted: bool) -> None:
    """Refuse a checkpoint whose model type is code that it brings, unless the user trusts it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if "auto_map" in values and values["model_type"] not in CONFIG_MAPPING and not trusted:
        raise CheckpointError(
            f"{name!r} brings code of its own for model type {values['model_type']!r:.100}, which"
            " would run on your machine with all your rights; read it, and if you trust it give"
            " --trust-remote-code (in Python: trust_remote_code=True)"
        )


def _check_fits(model_class: Any, config: Any, files: list[Path], options: dict[str, Any]) -> None:
    """Refuse weights that are not those of the config, before memory is taken for them."""
    config = copy.deepcopy(config)
    quantization = config.__dict__.pop("quantization_config", None)
    with torch.device("meta"):
        build = getattr(model_class, "_from_config", None)
        model = build(config) if build else model_class.from_config(config, **options)
    if quantization is not None:
        manifest = AutoQuantizationConfig.from_dict(quantization)
        if not isinstance(manifest, DeadheadConfig):
            return  # HeadModel refuses weights that are quantized
        cut_to_manifest_(model, manifest, manifest.original())
    tensors = tensors_for(model, files)
    check_shapes(model, tensors)
    check_layers(model, tensors)


def _check_whole(name: str, found: dict[str, Any]) -> None:
    """Refuse a model that is partly random, because its weights are not those of its config."""
    for key, shape, wanted in sorted(found["mismatched_keys"])[:1]:
        raise CheckpointError(
            f"the weights of {name!r} hold {key!r} with shape {list(shape)}, config.json asks for"
            f" {list(wanted)}; {SAME_CHECKPOINT}"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise CheckpointError(
            f"the weights of {name!r} lack {missing[0]!r}{more}; {SAME_CHECKPOINT}"
        )


def _tokenizer(path: str, options: dict[str, Any]) -> Any:
    """Load the tokenizer, or None: without its files transformers would make an empty one."""
    import transformers

    folder = Path(path)
    if folder.is_dir() and not any(
        next(folder.glob(f"{name}*"), None) for name in ("tokenizer", "vocab", "sp")
    ):
        return None
    return transformers.AutoTokenizer.from_pretrained(path, **options)


def _resolve(source: str) -> tuple[str, str]:
    as_path(source, "a model")
    source = str(source)
    if source.startswith("bundled:"):
        from deadhead import bundled

        try:
            return str(bundled.model_path(source.removeprefix("bundled:"))), source
        except UnknownNameError as error:
            known = ("bundled:encoder", "bundled:decoder")
            raise unknown_name("bundled model", source, known) from error
    path = as_path(source, "a model")
    if path.exists():
        if not path.is_dir():
            raise CheckpointError(f"{source!r} is a file; give the folder that holds config.json")
        return str(path), path.resolve().name
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    if looks_like_path or (offline and not _in_hub_cache(source)):
        raise _no_such_model(source, path)
    return source, source


def _in_hub_cache(source: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(source, "config.json"), str)
    except HFValidationError:
        return False


def _no_such_model(source: str, path: Path) -> UnknownNameError:
    parent = path.parent if path.parent.is_dir() else Path()
    siblings = [p.name for p in parent.iterdir() if (p / "config.json").exists()]
    names = [*siblings, "bundled:encoder", "bundled:decoder"]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = (
        f"; did you mean {str(parent / near[0]) if near[0] in siblings else near[0]!r}?"
        if near
        else ";"
    )
    return UnknownNameError(
        f"model {source!r} is not there{hint} give a folder with config.json, or bundled:encoder,"
        " bundled:decoder (a hub id needs the network: HF_HUB_OFFLINE=0)"
    )


def _device(device: str) -> torch.device:
    try:
        wanted = torch.device(device)
        torch.zeros(1, device=wanted).item()  # on meta there are no numbers
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UnknownNameError(
            f"device {device!r} is not available here; use cpu"
            + (", cuda" if torch.cuda.is_available() else "")
        ) from error
    return wanted


def _check_folder(folder: Path, trusted: bool) -> list[Path]:
    """Check a folder's config without building anything, and return its weight files."""
    for file in folder.iterdir():
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise CheckpointError(f"{file.name!r} is a pipe or a device; copy it as a file")
    values = _read_config(folder)
    _check_code(folder.name, values, trusted)
    entry = values.get("quantization_config")
    if isinstance(entry, dict):
        register_carried(values["model_type"], entry)
    records_named(values["model_type"])
    module_folders(folder)  # refused here, not when the cut copy is written
    files = weight_files(folder)
    _check_counts(values, shapes_in(files))
    return files


def _read_config(folder: Path) -> dict[str, Any]:
    config = folder / "config.json"
    if not config.is_file() and (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder.name!r} is an adapter of peft, not a model; merge it into its base with"
            " peft.AutoPeftModel...from_pretrained(...).merge_and_unload(), save that with"
            " save_pretrained, and give its folder"
        )
    if not config.is_file():
        inside = (folder / name for name in module_folders(folder))
        base = next((path.name for path in inside if (path / "config.json").is_file()), None)
        hint = "a model's folder" if base is None else f"the folder of its base model, {base!r}"
        raise CheckpointError(f"{folder.name!r} has no config.json; give {hint}")
    values = read_json(config, what="the settings of a model", error=CheckpointError)
    if not isinstance(values.get("model_type"), str):
        raise CheckpointError(
            f"config.json of {folder.name!r} names no model_type; give a folder written by"
            " save_pretrained"
        )
    return values


# what transformers builds one by one; sizes of tensors cost nothing on meta
COUNTS = re.compile(
    r"(num_((hidden|attention|key_value|encoder|decoder)_)?|n_|inner_)"
    r"(layers?|heads?|(hidden_)?groups?)(_num)?|num_labels"
)


def _check_counts(values: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse counts for which transformers would build modules or labels without end."""
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for key in filter(COUNTS.fullmatch, values):
        layers = "layer" in key or "group" in key
        value, most = values[key], max(100, len(shapes) if layers else largest)
        if isinstance(value, (int, float)) and not 1 <= value <= most:
            raise CheckpointError(
                f"config.json gives {key} as {value!r}, and the weights allow 1 to {most};"
                f" {SAME_CHECKPOINT}"
            )


def _class_of(config: Any) -> Any:
    import transformers

    for name in getattr(config, "architectures", None) or []:
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
        for auto, place in (getattr(config, "auto_map", None) or {}).items():
            if isinstance(place, str) and place.rpartition(".")[2] == name:
                return getattr(transformers, auto)  # of the checkpoint's own code
    return transformers.AutoModel
