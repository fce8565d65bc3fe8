"""HTML as strings: the only place that escapes text."""

from __future__ import annotations

import html
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
    """Return a table that scrolls sideways where it is too wide.

    Args:
        columns: their names.
        rows: the cells as text.
        words: names of columns of text; the others hold numbers and are set to the right.
    """
    kinds = ["words" if name in words else None for name in columns]

    def line(cells: Sequence[str], name: str) -> Html:
        return tag("tr", *(tag(name, c, class_=k) for c, k in zip(cells, kinds, strict=True)))

    head, body = line(columns, "th"), join(line(row, "td") for row in rows)
    inside = tag("table", tag("thead", head), tag("tbody", body))
    return tag("div", inside, class_="scroll", style="overflow-x:auto", tabindex=0)
