"""Records that are derived when they are needed, and records as Python code."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from transformers import PreTrainedConfig

from deadhead.derivation.derive import derive, misfit
from deadhead.models.architectures import (
    Architecture,
    PerHead,
    Records,
    has_derived,
    has_records,
    records_named,
    register_architecture,
)


def derive_record(config: PreTrainedConfig) -> Records:
    """Return the records of a config's model type; derive, prove and register them if need be.

    They are derived if the type has none, or has derived ones that do not hold for this config.

    Registered records last as long as the process; a cut checkpoint carries them.

    Cost: some hundred passes of a model with two small layers; seconds.

    Raises:
        UnsupportedModelError: no heads were found, or the proof refutes what was found; says why.
    """
    name = config.model_type
    if not has_records(name) or (has_derived(name) and misfit(config, records_named(name))):
        register_architecture(*derive(config).records)
    return records_named(name)


def as_code(records: Records) -> str:
    """Write records as the Python code that registers them."""
    names = {each.layout.__name__ for each in records if each.layout.__name__ != "separate"}
    names |= {"PerHead"} if any(each.rows or each.selected for each in records) else set()
    hooks = {each.after_cut.__name__ for each in records if each.after_cut is not None}
    lines = ["from deadhead import Architecture, register_architecture"]
    if names:
        lines.append(f"from deadhead.models.architectures import {', '.join(sorted(names))}")
    if hooks:
        where = "deadhead.models.architectures.adapters"
        lines.append(f"from {where} import {', '.join(sorted(hooks))}")
    lines += ["", "register_architecture("]
    for record in records:
        lines += ["    Architecture(", *map("        {},".format, _arguments(record)), "    ),"]
    return "\n".join([*lines, ")"])


def _arguments(record: Architecture) -> list[str]:
    found = []
    for each in fields(record):
        value = getattr(record, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if value != default:
            found.append(f"{each.name}={_written(value)}")
    return found


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({''.join(f'{_written(each)}, ' for each in value).rstrip()})"
    if isinstance(value, PerHead):
        return repr(value)
    if callable(value):
        return value.__name__
    return repr(dict(value) if isinstance(value, dict) else value)
