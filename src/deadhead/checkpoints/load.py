"""Loading a model and its tokenizer by path, name or `bundled:` name, checked before it is read."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deadhead.checkpoints.verify import shapes_in, weight_files
from deadhead.errors import CheckpointError, DeadheadError, UnknownNameError, unknown_name
from deadhead.models.architectures import architecture_named

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
DTYPES["float16"] = torch.float16


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, its tokenizer (None if it has none), and the name to report it by."""

    model: Any
    tokenizer: Any
    name: str


def load_model(
    source: str,
    *,
    device: str = "cpu",
    dtype: str | None = None,
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

    if dtype is not None and dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    path, name = _resolve(source)
    wanted = _device(device)
    if Path(path).is_dir():
        _check_folder(Path(path))
    options = {"trust_remote_code": trust_remote_code}
    try:
        config = transformers.AutoConfig.from_pretrained(path, **options)
        architecture_named(config.model_type)
        model, found = _class_of(config).from_pretrained(
            path,
            dtype=DTYPES.get(dtype or "", "auto"),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that we can say which
            output_loading_info=True,
            **options,
        )
        _check_whole(name, found)
        tokenizer = _tokenizer(path, options)
    except DeadheadError:
        raise
    except Exception as error:  # transformers, its hub and its tokenizers: each has its own
        text = repr(error) if isinstance(error, LookupError) else str(error)  # a key says little
        first = next(iter(text.strip().splitlines()), repr(error)).rstrip(".:; ")
        raise CheckpointError(
            f"cannot load {source!r}: {first}; give a folder written by save_pretrained"
        ) from error
    return Loaded(model.to(wanted).eval(), tokenizer, name)


def _check_whole(name: str, found: dict[str, Any]) -> None:
    """Refuse a model that is partly random, because its weights are not those of its config."""
    from_other = "; take config.json and the weights from the same checkpoint"
    for key, shape, wanted in sorted(found["mismatched_keys"])[:1]:
        raise CheckpointError(
            f"the weights of {name!r} hold {key!r} with shape {list(shape)}, config.json asks for"
            f" {list(wanted)}{from_other}"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""
        raise CheckpointError(f"the weights of {name!r} lack {missing[0]!r}{more}{from_other}")


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
    if source.startswith("bundled:"):
        from deadhead import bundled

        try:
            return str(bundled.model_path(source.removeprefix("bundled:"))), source
        except ValueError as error:
            known = ("bundled:encoder", "bundled:decoder")
            raise unknown_name("bundled model", source, known) from error
    path = Path(source).expanduser()
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
    except (RuntimeError, AssertionError) as error:
        raise UnknownNameError(
            f"device {device!r} is not available here; use cpu"
            + (", cuda" if torch.cuda.is_available() else "")
        ) from error
    return wanted


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{folder.name!r} has no config.json; give a model's folder")
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"config.json of {folder.name!r} is not JSON ({error}); copy it again"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise CheckpointError(
            f"config.json of {folder.name!r} names no model_type; give a folder written by"
            " save_pretrained"
        )
    architecture_named(values["model_type"])
    shapes_in(weight_files(folder))


def _class_of(config: Any) -> Any:
    import transformers

    names = getattr(config, "architectures", None) or []
    found = next((getattr(transformers, n) for n in names if hasattr(transformers, n)), None)
    return found or transformers.AutoModel
