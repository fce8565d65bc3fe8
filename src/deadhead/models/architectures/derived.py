"""Records that were derived by tracing tiny random models, as plain data."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from importlib import resources
from typing import Any

from deadhead.errors import UnsupportedModelError
from deadhead.models.architectures.adapters import AFTER_CUT
from deadhead.models.architectures.record import LAYOUTS, Architecture, PerHead, Records

_CODE = ("refuse", "slopes")  # what only written records have
_PATHS = ("blocks", "attention", "query", "key", "value", "output", "head_dim", "heads", "kv_heads")
_PLAIN = {"bool": bool, "int": int, "float": (float, int)}
_COUNTS = ("heads", "kv_heads", "width", "kv_width", "groups")


@functools.cache
def shipped_records() -> Mapping[str, Records]:
    """Return the derived records that ship with deadhead, by model type."""
    text = (
        resources.files("deadhead.models.architectures")
        .joinpath("derived.json")
        .read_text(encoding="utf-8")
    )
    return {name: records_from(name, entries) for name, entries in json.loads(text).items()}


def as_data(record: Architecture) -> dict[str, Any]:
    """Write a derived record as JSON values; what has its default is left out."""
    data: dict[str, Any] = {}
    for each in fields(record):
        value = getattr(record, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if each.name in ("model_type", "derived", *_CODE) or value == default:
            continue
        data[each.name] = value
    if "layout" in data:
        data["layout"] = record.layout.__name__
    if callable(record.after_cut):
        data["after_cut"] = record.after_cut.__name__
    for name in ("rows", "selected"):
        if name in data:
            data[name] = [asdict(rows) for rows in data[name]]
    return data | ({"shrink": dict(record.shrink)} if record.shrink else {})


def records_from(model_type: str, entries: Sequence[Mapping[str, Any]]) -> Records:
    """Read the records of one model type from JSON values.

    Raises:
        UnsupportedModelError: they are no records; nothing in them is executed.
    """
    try:
        if not isinstance(entries, list) or not entries:
            raise ValueError("no list of stacks")
        return tuple(_record(model_type, entry) for entry in entries)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UnsupportedModelError(
            f"the derived record of model type {model_type!r} is damaged ({error!r:.120}); derive"
            " it again with 'deadhead check MODEL --derive'"
        ) from error


def _record(model_type: str, entry: Mapping[str, Any]) -> Architecture:
    values = dict(entry)
    names = {each.name: each.type for each in fields(Architecture)}
    for name, value in values.items():
        text = names[name] == "str" or name in ("layout", "headless")
        kind = str if text else _PLAIN.get(str(names[name]), (dict, list, str))
        if name in (*_CODE, "derived", "model_type") or not isinstance(value, kind):
            raise ValueError(f"{name}={value!r}")
        if name in _PATHS:
            _check_path(value)
    for name in ("rows", "selected"):
        values[name] = tuple(_per_head(row) for row in values.get(name, ()))
    if values.get("headless", "sliced") not in ("sliced", "refused"):
        raise ValueError(f"headless={values['headless']!r}")
    if "after_cut" in values:
        values["after_cut"] = AFTER_CUT[values["after_cut"]]
    layout = LAYOUTS[values.pop("layout", "separate")]
    shrink = {name: _COUNTS[_COUNTS.index(of)] for name, of in values.pop("shrink", {}).items()}
    for name in shrink:
        _check_path(name)
    return Architecture(model_type, layout=layout, shrink=shrink, derived=True, **values)


def _per_head(values: Mapping[str, Any]) -> PerHead:
    rows = PerHead(**values)
    _check_path(rows.parameter)
    whole = type(rows.dim) is int and type(rows.parts) is int
    if not whole or rows.dim < 0 or rows.parts < 1 or rows.unit not in ("heads", "kv_heads"):
        raise ValueError(f"rows={dict(values)!r}")
    return rows


def _check_path(path: str) -> None:
    """Refuse paths that lead anywhere but to children and attributes of a module."""
    if path and not re.fullmatch(r"(\*|(?!_)\w+)(\.(\*|(?!__)\w+))*", path):
        raise ValueError(f"path {path!r}")
