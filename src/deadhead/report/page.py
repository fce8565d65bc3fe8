"""One page for all reports: a single HTML file that holds its figures and styles itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.display import NOTHING, Brief, number, short_name
from deadhead.display.html import Html, table_html, tag
from deadhead.errors import MissingDependencyError
from deadhead.files import write_text
from deadhead.report.style import save_figure
from deadhead.report.text_table import TextTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        body.append(tag("dl", *map(_tile, self.tiles), class_="tiles"))
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


def _tile(tile: tuple[str, str, str]) -> Html:
    name, value, note = tile
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
        **{key: run.get(key) for key in ("seed", "date", "machine")},
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
