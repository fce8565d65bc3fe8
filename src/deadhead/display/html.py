"""HTML as strings, the only place that escapes text; and all heads of a model as a small map."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def tag(name: str, *content: object, **attributes: object) -> Html:
    """Return an element; content and attribute values are escaped unless they are `Html`.

    An underscore at the end of an attribute's name is removed, others become hyphens: `class_`,
    `aria_label`. An attribute of None is left out.

    >>> tag("p", "1 < 2", class_="quiet")
    '<p class="quiet">1 &lt; 2</p>'
    """
    given = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items() if v is not None}
    inside = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    return Html(f"<{name}{inside}>{join(content)}</{name}>")


def join(content: Iterable[object]) -> Html:
    """Put pieces together; what is not `Html` is escaped."""
    return Html("".join(x if isinstance(x, Html) else html.escape(str(x)) for x in content))


def table_html(
    columns: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = ()
) -> Html:
    """Return a table that scrolls sideways if too wide; columns not in `words` hold numbers."""
    kinds = ["words" if name in words else None for name in columns]

    def line(cells: Sequence[str], name: str) -> Html:
        return tag("tr", *(tag(name, c, class_=k) for c, k in zip(cells, kinds, strict=True)))

    head, body = line(columns, "th"), join(line(row, "td") for row in rows)
    inside = tag("table", tag("thead", head), tag("tbody", body))
    return tag("div", inside, class_="scroll", style="overflow-x:auto", tabindex=0)


CELL = 14  # pixels
SHADES = ("#f1f6fb", "#084c8d")  # of the least and the most important head

Kept = Sequence[Sequence[bool]]


def grid_text(kept: Kept) -> str:
    """Draw the heads as text, a line per block: kept `#`, removed `.`."""
    width = len(str(max(len(kept) - 1, 0)))
    lines = [
        f"block {block:>{width}}  {''.join('#' if k else '.' for k in row)}"
        f"  {sum(row)} of {len(row)}"
        for block, row in enumerate(kept)
    ]
    return "\n".join(lines)


def head_map_html(
    kept: Kept | None = None,
    scores: Sequence[Sequence[float]] | None = None,
    *,
    caption: str = "",
) -> str:
    """Draw blocks (rows) x heads (columns) for a notebook: dark = important, crossed out = removed.

    Shades are by rank. Without scores, kept heads are dark; NaN scores are gray.
    """
    rows = kept if kept is not None else [[True] * len(row) for row in scores or ()]
    known = sorted({x for row in scores or () for x in row if not math.isnan(x)})
    rank = {x: i / max(1, len(known) - 1) for i, x in enumerate(known)}
    cells = []
    for block, row in enumerate(rows):
        for index, stays in enumerate(row):
            score = None if scores is None else float(scores[block][index])
            shade = float(stays) if score is None else rank.get(score)
            cells.append(_cell(block, index, shade, score, removed=not stays))
    width, height = CELL * max(map(len, rows), default=0) + 1, CELL * len(rows) + 1
    svg = tag("svg", join(cells), width=width, height=height, role="img", aria_label=caption)
    return tag("figure", tag("figcaption", caption), svg, style="margin:0")


def _cell(
    block: int, index: int, shade: float | None, score: float | None, *, removed: bool
) -> Html:
    x, y, name = CELL * index, CELL * block, f"head {block}.{index}"
    said = name if score is None else f"{name}: {score:.4g}"
    square = tag(
        "rect",
        tag("title", f"{said}, removed" if removed else said),
        x=x + 1,
        y=y + 1,
        width=CELL - 1,
        height=CELL - 1,
        fill="#d0d7de" if shade is None else _mixed(shade),
    )
    if not removed:
        return square
    a, b, ink = 4, CELL - 3, "#fff" if shade is not None and shade > 0.5 else "#24292f"
    lines = f"M{x + a} {y + a}L{x + b} {y + b}M{x + b} {y + a}L{x + a} {y + b}"
    return join([square, tag("path", d=lines, stroke=ink, stroke_width=1.5)])


def _mixed(part: float) -> str:
    pale, dark = ([int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in SHADES)
    return "#" + "".join(
        f"{round(a + part * (b - a)):02x}" for a, b in zip(pale, dark, strict=True)
    )
