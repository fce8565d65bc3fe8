"""Numbers and names as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

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
