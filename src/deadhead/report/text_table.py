"""A table as text, which prints to fit the terminal, as markdown, and as HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from deadhead.display import Brief
from deadhead.display.html import Html, table_html
from deadhead.files import printable

NARROW = 24  # characters; words and headers may be folded down to this,
NARROW_KEY = 28  # and those of columns that tell the rows apart to this
GAP = 3  # characters between two columns


@dataclass(frozen=True, repr=False)
class TextTable(Brief):
    """Rows of cells, printed by `rich` or `print`, under a `title`.

    Columns in `words` hold words, the others numbers, which are set to the right. A table that
    is too wide for the terminal is split into several, each with the first `keys` columns.
    """

    columns: tuple[str, ...]
    rows: list[list[str]]
    words: tuple[str, ...] = ()
    title: str = ""
    keys: int = 1

    def __post_init__(self) -> None:
        rows = [[printable(" ".join(cell.split("\n"))) for cell in row] for row in self.rows]
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "title", printable(self.title))

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[object]:
        if self.title:
            yield Text(self.title, overflow="fold")
        first, rest = list(range(self.keys)), list(range(self.keys, len(self.columns)))
        while True:
            n = len(rest)
            while n > 1 and self._narrow([*first, *rest[:n]]) > options.max_width:
                n -= 1
            yield self._part([*first, *rest[:n]], options.max_width)
            rest = rest[n:]
            if not rest:
                break

    def _narrow(self, columns: Sequence[int]) -> int:
        """Return the least width of a table of these columns."""
        return sum(self._widths(at)[0] + GAP for at in columns)

    def _widths(self, at: int) -> tuple[int, int]:
        """Return the least and the natural width of a column."""
        name, cells = self.columns[at], max((len(row[at]) for row in self.rows), default=0)
        word = max(map(len, name.split()), default=0)
        limit = NARROW_KEY if at < self.keys else NARROW
        if name in self.words:
            return min(limit, max(word, cells)), max(len(name), cells)
        return max(min(limit, word), cells), max(len(name), cells)

    def _part(self, columns: Sequence[int], width: int) -> Table:
        part = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        spare, widths = width - self._narrow(columns), {}
        for at in sorted(columns, key=lambda at: self.columns[at] in self.words):  # numbers first
            least, natural = self._widths(at)
            widths[at] = least + max(0, min(spare, natural - least))
            spare -= widths[at] - least
        for at in columns:
            part.add_column(
                Text(self.columns[at]),
                justify="left" if self.columns[at] in self.words else "right",
                overflow="fold",
                width=widths[at],
            )
        for row in self.rows:
            part.add_row(*(Text(row[at]) for at in columns))  # Text: no markup is read
        return part

    def __str__(self) -> str:
        console = Console(width=80, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get().rstrip()

    def _repr_html_(self) -> Html:
        return table_html(self.columns, self.rows, self.words)

    def markdown(self) -> str:
        """Write it as markdown; bars, line breaks and HTML in cells are escaped."""
        lines = [
            _markdown_row(self.columns),
            _markdown_row(":--" if name in self.words else "--:" for name in self.columns),
            *map(_markdown_row, self.rows),
        ]
        return "\n".join(lines)


def table_of(
    rows: Iterable[Any],
    columns: Mapping[str, Callable[[Any], str]],
    words: tuple[str, ...] = (),
    title: str = "",
    keys: int = 1,
) -> TextTable:
    """Make a table with a row for each of `rows`; `columns` say what each cell shows of it."""
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    return TextTable(tuple(columns), cells, words, title, keys)


def _markdown_row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(markdown_text(str(cell)) for cell in cells)} |"


def markdown_text(text: str) -> str:
    """Escape one line of text for markdown: HTML, bars and line breaks."""
    line = " ".join(text.split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
