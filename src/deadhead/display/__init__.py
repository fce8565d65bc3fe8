"""Display: how numbers, names and objects are shown as text; `html` shows them as HTML."""

from __future__ import annotations

import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from types import ModuleType
from typing import Any

WIDTH = 96  # characters of a line
NOTHING = "—"  # there is no such value

# a drive, then everything up to the last separator
_FOLDERS = re.compile(r"(?:\b[A-Za-z]:(?=[\\/]))?[^\s:;,()\[\]'\"=]*[\\/](?=[^\s\\/])")


def number(value: float | None) -> str:
    """Print a metric: three decimals for small values, fewer for large ones, a dash for none."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0 or 1e-3 <= abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:,.1f}" if 10 <= abs(value) < 1e7 else f"{value:.2e}"


def signed(value: float | None) -> str:
    """Print a difference of two metrics, with its sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:+z.3f}" if abs(value) < 10 else f"{value:+,.1f}"


def short_count(count: int) -> str:
    """Print a large count: `22.7M`."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{name}"
    return str(count)


def size_change(before: float | None, after: float | None) -> str:
    """Print how much smaller or larger a size became: `8.0% fewer`, `the same`."""
    if not before or after is None:
        return NOTHING
    fraction = after / before - 1
    if fraction == 0:
        return "the same"
    digits = 0 if abs(fraction) >= 0.0995 else 1
    return f"{abs(fraction):.{digits}%} {'fewer' if fraction < 0 else 'more'}"


def short_name(name: str) -> str:
    r"""Reduce each path in a name to its last part, for titles, labels and column headers.

    >>> short_name("file:/data/scores.json on C:\\texts\\dev.tsv[0:800]")
    'file:scores.json on dev.tsv[0:800]'
    """
    return _FOLDERS.sub("", " ".join(name.split())).rstrip("/\\")


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Shorten names as `short_name` does; names that become equal are numbered.

    >>> short_names(["a/dev.tsv", "b/dev.tsv"])
    {'a/dev.tsv': 'dev.tsv', 'b/dev.tsv': 'dev.tsv (2)'}
    """
    out: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short, count = short_name(name), 1
        while (label := short if count == 1 else f"{short} ({count})") in out.values():
            count += 1
        out[name] = label
    return out


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


class Names(dict[str, str]):
    """Names and what each stands for; printed as a line each.

    >>> Names(greedy="scores again after every move", one_shot="scores once")
    greedy    scores again after every move
    one_shot  scores once
    """

    def __repr__(self) -> str:
        if not any(self.values()):
            return "\n".join(textwrap.wrap(", ".join(self), WIDTH))
        width = max(map(len, self))
        lines = [f"{name:<{width}}  {said}" for name, said in self.items()]
        return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines)


def first_lines(things: Mapping[str, object]) -> Names:
    """Return the first line of the docstring of each thing."""
    said = {name: (thing.__doc__ or "").strip() for name, thing in things.items()}
    return Names({name: text.partition("\n")[0] for name, text in said.items()})


def listed_when_called(package: str, names: Callable[[], Names]) -> None:
    """Make `deadhead.criteria()` list names, though `deadhead.criteria` is a package as well."""

    class Listing(ModuleType):
        def __call__(self) -> Names:
            return names()

    sys.modules[package].__class__ = Listing
