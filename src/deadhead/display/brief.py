"""A `repr` that fits on a screen, for objects that hold arrays, models or long lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

WIDTH = 96


class Brief:
    """A dataclass with a short `repr`, without defaults; declare it by `dataclass(repr=False)`."""

    def __repr__(self) -> str:
        given: Any = self
        values = [
            (field.name, brief(getattr(self, field.name)))
            for field in fields(given)
            if not field.name.startswith("_") and not _is_default(field, getattr(self, field.name))
        ]
        name = type(self).__name__
        line = f"{name}({', '.join(f'{key}={value}' for key, value in values)})"
        if len(line) <= WIDTH:
            return line
        return f"{name}(\n" + "".join(f"  {key}={value},\n" for key, value in values) + ")"


def _is_default(field: Field[Any], value: Any) -> bool:
    made = field.default_factory
    default = field.default if made is MISSING else made()
    return type(value) is type(default) and bool(value == default)


def brief(value: Any, width: int = WIDTH - 24) -> str:
    """Return a value as one line of at most `width` characters.

    >>> brief(list(range(100)), 24)
    '[0, 1, 2, 3, … 96 more]'
    """
    if hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape):
        text = f"<{type(value).__name__} of shape {tuple(value.shape)}>"
    elif hasattr(value, "named_parameters"):  # a module prints a line per layer
        text = f"<{type(value).__name__}>"
    elif isinstance(value, Mapping):
        text = _listed("{}", ((f"{k!r}: ", v) for k, v in value.items()), len(value), width)
    elif type(value) in (list, tuple):
        ends = "[]" if isinstance(value, list) else "()"
        text = _listed(ends, (("", v) for v in value), len(value), width)
    else:
        text = " ".join(repr(value).split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _listed(ends: str, items: Iterable[tuple[str, Any]], count: int, width: int) -> str:
    """Print as many items as fit, and the number of the others."""
    text, shown = "", 0
    for prefix, value in items:
        item = f"{', ' if shown else ''}{prefix}{brief(value, max(16, width // 3))}"
        if len(text) + len(item) > width - 14 and count > shown + 1:
            return f"{ends[0]}{text}, … {count - shown} more{ends[1]}"
        text, shown = text + item, shown + 1
    return f"{ends[0]}{text}{ends[1]}"
