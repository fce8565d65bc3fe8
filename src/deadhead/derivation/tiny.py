"""Tiny random models of any model type of transformers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto import configuration_auto, modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from deadhead.derivation.numbers import shrunk
from deadhead.errors import UnsupportedModelError

PREFERRED = (
    "MODEL_MAPPING",
    "MODEL_FOR_PRETRAINING_MAPPING",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
)  # the other mappings follow in the order of transformers
HEAD_SIZES = (8, 16, 32)  # the next is tried if a model cannot be built with the one before
MAX_PARAMETERS = 8_000_000
UNWANTED = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "quantization_config")


def default_config(model_type: str) -> PreTrainedConfig:
    """Make the config that a model type has by default.

    Raises:
        UnsupportedModelError: if transformers has no such model type.
    """
    if model_type not in configuration_auto.CONFIG_MAPPING_NAMES:
        raise UnsupportedModelError(
            f"model type {model_type!r:.100} is not known to transformers; see CONFIG_MAPPING"
        )
    return CONFIG_MAPPING[model_type]()


def tiny_config(config: PreTrainedConfig, head_dim: int = 8) -> PreTrainedConfig:
    """Shrink a config of any type, by rules on the names of its fields; `config` stays as it is.

    Two blocks per stack (more only where each kind of layer needs one), 6 query heads, 2 key/value
    heads if the original groups them, `head_dim` features per head, 101 tokens, images of 4 x 4
    patches. Different quantities have different numbers where the type allows it. Sub-configs are
    shrunk by the same rules.
    """
    small = shrunk(copy.deepcopy(config).to_dict(), head_dim)
    for name in UNWANTED:
        small.pop(name, None)
    return type(config).from_dict(small)


def model_class(given: str | PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the class that `tiny_model` builds: the base class where AutoModel knows one.

    Else the class of the most general head that an Auto class knows, else the class of the type's
    own module whose config it is (towers, for instance). A config that was loaded as remote code
    has the classes that its checkpoint brings.

    Raises:
        UnsupportedModelError: if there is no model for this type.
    """
    if isinstance(given, PreTrainedConfig) and is_remote(type(given)):
        return _remote_class(given)
    model_type = given if isinstance(given, str) else given.model_type
    config_class = CONFIG_MAPPING[model_type]
    names = [n for n in vars(modeling_auto) if n.startswith("MODEL_") and n.endswith("_MAPPING")]
    other = None
    for name in dict.fromkeys([*PREFERRED, *names]):
        mapping = getattr(modeling_auto, name, None)
        if mapping is not None and config_class in mapping.keys():  # noqa: SIM118
            found = mapping[config_class]
            found = found[0] if isinstance(found, (tuple, list)) else found
            if getattr(found, "config_class", config_class) is config_class:
                return found
            other = other or found  # a part of the model, perhaps
    if other is not None:
        return other
    for found in _classes_of(config_class):
        return found
    raise UnsupportedModelError(f"transformers has no model for {model_type!r:.100}")


def is_remote(kind: type) -> bool:
    """Whether a class comes from a checkpoint's own code, which the user has said to trust."""
    return kind.__module__.startswith("transformers_modules.")


def _remote_class(config: Any) -> type[PreTrainedModel]:
    """Return the most general class that a checkpoint's own code has for its config."""
    places = getattr(config, "auto_map", None) or {}
    for name in ("AutoModel", *sorted(places)):
        if name in places and name.startswith("AutoModel"):
            return get_class_from_dynamic_module(places[name], config.name_or_path)
    raise UnsupportedModelError(
        f"the code of {config.model_type!r:.100} has no model: auto_map of its config.json names no"
        " AutoModel class"
    )


def _classes_of(config_class: type[PreTrainedConfig]) -> Iterator[type[PreTrainedModel]]:
    """Yield the classes of a config's own package that are built from it, the base class first."""
    package, _, name = config_class.__module__.rpartition(".")
    own = name.replace("configuration_", "modeling_")
    folder = Path(inspect.getfile(config_class)).parent
    others = sorted(file.stem for file in folder.glob("modeling_*.py") if file.stem != own)
    found = [
        item
        for each in (own, *others)
        if (folder / f"{each}.py").is_file()
        for item in vars(import_module(f"{package}.{each}")).values()
        if isinstance(item, type)
        and issubclass(item, PreTrainedModel)
        and item.config_class is config_class
        and item.__module__ == f"{package}.{each}"
        and item.forward is not nn.Module.forward
    ]
    stem = config_class.__name__.removesuffix("Config")
    yield from sorted(found, key=lambda c: (c.__name__ not in (stem, f"{stem}Model"), c.__name__))


def tiny_model(
    given: str | PreTrainedConfig, dtype: torch.dtype = torch.float64
) -> PreTrainedModel:
    """Build a tiny random model, in eval mode and with eager attention.

    Parameters that the initialization makes constant (biases, norms, gates, tables, sinks) are
    random around that constant, so that no fault hides behind a zero. Two calls give equal models.
    The random state of torch is left as it was.

    Args:
        given: a model type, or a config of original size.
        dtype: type of the parameters.

    Raises:
        UnsupportedModelError: if no tiny model can be built, with the reason.
    """
    config = default_config(given) if isinstance(given, str) else given
    model_type, found = config.model_type, model_class(given)
    reasons: dict[str, Exception] = {}
    for head_dim in HEAD_SIZES:
        try:
            return _built(found, tiny_config(config, head_dim), dtype)
        except Exception as error:  # each type has its own way to refuse sizes
            reasons.setdefault(f"{type(error).__name__}: {error}", error)
    raise UnsupportedModelError(
        f"no tiny model of {model_type!r:.100}: {'; '.join(reasons)}"
    ) from next(iter(reasons.values()))


def _built(
    found: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    with torch.device("meta"):
        size = sum(p.numel() for p in build(found, copy.deepcopy(config), dtype).parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size:,} parameters after shrinking")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(found, config, dtype).eval()
        randomize_constants_(model)
    return model


def build(
    found: type[PreTrainedModel], config: PreTrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """Build a model of a class with eager attention and random weights."""
    make: Any = found._from_config
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return make(config, dtype=dtype, **eager).to(dtype)


@torch.no_grad()
def randomize_constants_(model: nn.Module) -> None:
    """Add noise to each parameter whose values are all equal, in place."""
    for parameter in model.parameters():
        if not parameter.is_floating_point() or parameter.numel() == 0:
            continue
        if not torch.isfinite(parameter).all() or parameter.abs().max() > 1e3:
            parameter.zero_()  # uninitialized memory
        if bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
