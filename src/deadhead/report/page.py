"""A text table, and one page for all reports: one HTML file that holds its figures and styles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from deadhead.display import NOTHING, Brief, number, short_name
from deadhead.display.html import Html, table_html, tag
from deadhead.errors import MissingDependencyError
from deadhead.files import printable, write_text
from deadhead.report.style import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
NO_FIGURES = "No figures: matplotlib is not installed. For figures: pip install 'deadhead[plot]'"


@dataclass(frozen=True)
class Plot:
    """A figure of a page, also written as `figures/NAME.{png,svg}`; `label` says what it shows."""

    name: str
    draw: Callable[[], Figure]
    label: str
    caption: str = ""


@dataclass(frozen=True)
class Listing:
    """Text whose lines and spaces stay as they are: a command, or a map of characters."""

    text: str
    label: str | None = None


Part = str | TextTable | Plot | Listing


@dataclass(repr=False)
class Page(Brief):
    """A report: a headline, (name, value, note) tiles, what to be wary of, and sections."""

    title: str
    outcome: str
    tiles: Sequence[tuple[str, str, str]] = ()
    caveats: Sequence[str] = ()
    sections: list[tuple[str, tuple[Part, ...]]] = field(default_factory=list)

    def section(self, heading: str, *parts: Part) -> None:
        """Add a section."""
        self.sections.append((heading, parts))

    def write(self, folder: Path | str) -> Path:
        """Write `report.html` and `figures/*.{png,svg}`, each whole or not at all; return the path.

        The page needs nothing else: no script, no network. Without matplotlib it has no figures.
        """
        path = Path(folder) / "report.html"
        write_text(path, self.render(self._write_figures(path.parent / "figures")))
        return path

    def _write_figures(self, folder: Path) -> dict[str, str]:
        """Draw and write the figures; return SVG source by name."""
        plots = [p for _, parts in self.sections for p in parts if isinstance(p, Plot)]
        try:
            figures = {plot.name: plot.draw() for plot in plots}
        except MissingDependencyError:
            return {}
        written = {name: save_figure(figure, folder, name) for name, figure in figures.items()}
        return {name: paths[-1].read_text(encoding="utf-8") for name, paths in written.items()}

    def render(self, figures: Mapping[str, str]) -> str:
        """Return the page; `figures` holds SVG source by the names of the plots, or is empty."""
        title = short_name(self.title)
        plotted = any(isinstance(p, Plot) for _, parts in self.sections for p in parts)
        body = [tag("h1", title), tag("p", self.outcome, class_="outcome")]
        body.append(tag("dl", *(_tile(*tile) for tile in self.tiles), class_="tiles"))
        if self.caveats:
            lines = (tag("li", line) for line in self.caveats)
            heading = tag("h2", "Before you rely on this")
            body.append(tag("section", heading, tag("ul", *lines), class_="caveats"))
        if plotted and not figures:
            body.append(tag("p", NO_FIGURES, class_="quiet"))
        for heading, parts in self.sections:
            body += [tag("h2", heading), *(_part(part, figures) for part in parts)]
        style = resources.files("deadhead.report").joinpath("page.css").read_text(encoding="utf-8")
        head = [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
            tag("title", title),
            tag("style", Html(style)),
        ]
        page = tag("html", tag("head", *head), tag("body", tag("main", *body)), lang="en")
        return f"<!doctype html>\n{page}\n"


def _tile(name: str, value: str, note: str) -> Html:
    rows = [tag("dt", name), tag("dd", value, class_="value")]
    return tag("div", *rows, *([tag("dd", note, class_="note")] if note else []), class_="tile")


def _part(part: Part, figures: Mapping[str, str]) -> Html:
    if isinstance(part, TextTable):
        return table_html(part.columns, part.rows, part.words)
    if isinstance(part, Listing):
        return tag("pre", part.text, aria_label=part.label, class_=None if part.label else "wrap")
    if isinstance(part, str):
        return tag("p", part, class_="quiet")
    if part.name not in figures:
        return Html()
    files = f"Also in figures/{part.name}.png and figures/{part.name}.svg."
    paper = tag("div", Html(_inline(figures[part.name], part.name)), class_="paper")
    caption = tag("figcaption", f"{part.caption} {files}".strip())
    return tag("figure", paper, caption, role="img", aria_label=part.label)


def _inline(svg: str, name: str) -> str:
    """Fit an SVG file into HTML: no prolog, comments or namespaces, and ids of its own."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def add_provenance(page: Page, run: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """End a page with how to repeat the run: its command, its data, and everything that made it."""
    command = run.get("command")
    page.section(
        "How to repeat it",
        Listing(str(command)) if command else "The command was not recorded.",
        data_table(run.get("data")) or "Data fingerprints were not recorded.",
    )
    page.section("Provenance", provenance_table(run, facts))


def provenance_table(run: Mapping[str, Any], facts: Mapping[str, Any]) -> TextTable:
    """List what identifies a run; what is not known is left out."""
    versions, seconds = _mapping(run.get("versions")), run.get("seconds")
    known = {
        **facts,
        **{key: run.get(key) for key in ("record", "seed", "date", "machine")},
        "seconds": None if seconds is None else number(seconds),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    rows = [[name, str(value)] for name, value in known.items() if value not in (None, "")]
    return TextTable(("", "value"), rows, words=("", "value"))


def data_table(data: object) -> TextTable:
    """List the data sets with whatever is known of each."""
    named = {
        str(role): value if isinstance(value, Mapping) else {"fingerprint": value}
        for role, value in _mapping(data).items()
    }
    keys = tuple(dict.fromkeys(str(key) for value in named.values() for key in value))
    rows = [
        [role, *(str(value.get(key, NOTHING)) for key in keys)] for role, value in named.items()
    ]
    return TextTable(("data", *keys), rows, words=("data", *keys))


def _mapping(value: object) -> Mapping[str, Any]:
    """Return what a run recorded, if it can be listed."""
    return value if isinstance(value, Mapping) else {}
