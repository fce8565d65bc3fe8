"""What all figures share: colors, fonts, labels that are safe, and files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.display import short_name
from deadhead.errors import MissingDependencyError
from deadhead.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart by every common kind of color vision. Lines and markers
# change too, so that a gray print can be read.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (7, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GRAY, PALE = "#24292f", "#6e7781", "#d0d7de"
LOG_SPAN = 30.0  # a metric whose values differ by more than this factor gets a log axis
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "hatch.linewidth": 0.8,
    "svg.fonttype": "path",
}


def require_matplotlib() -> Any:
    """Return matplotlib."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise MissingDependencyError(
            "figures need matplotlib, which is not installed; pip install 'deadhead[plot]'"
        ) from error
    return matplotlib


@contextmanager
def new_figure(width: float, height: float, *, layout: str = "constrained") -> Iterator[Figure]:
    """Give an empty figure, to be drawn in our style: no pyplot, no display, no global state."""
    matplotlib = require_matplotlib()
    with matplotlib.rc_context(STYLE):
        yield matplotlib.figure.Figure(figsize=(width, height), layout=layout)


def line_style(i: int) -> dict[str, Any]:
    """Return color, line and marker of the `i`-th curve of a figure."""
    return {
        "color": COLORS[i % len(COLORS)],
        "linestyle": LINES[(i + i // len(COLORS)) % len(LINES)],
        "marker": MARKERS[i % len(MARKERS)],
    }


def add_grid(axes: Axes) -> None:
    """Draw pale horizontal lines behind the data."""
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def legend_above(figure: Figure, columns: int = 3) -> None:
    """Put one legend above all axes."""
    figure.legend(loc="outside upper center", frameon=False, fontsize=9.5, ncols=columns)


def hide_frame(axes: Axes) -> None:
    """Remove ticks and frame, as of a map."""
    axes.tick_params(length=0, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def needs_log_axis(values: list[float]) -> bool:
    """Whether values are positive and span more than `LOG_SPAN`."""
    return bool(values) and min(values) > 0 and max(values) > LOG_SPAN * min(values)


def label_text(text: str) -> str:
    """Make text safe as a label: no mathtext, no line break, no leading underscore (hidden)."""
    line = " ".join(text.split()).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def name_label(name: str) -> str:
    """Make a name that a user gave safe as a label, without the folders of a path."""
    return label_text(short_name(name))


def save_figure(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write `name.png` and `name.svg`; the same figure gives the same SVG bytes, on any day."""
    matplotlib = require_matplotlib()
    paths = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        path = Path(folder) / f"{name}.{kind}"
        with (
            matplotlib.rc_context({**STYLE, "svg.hashsalt": name}),
            warnings.catch_warnings(),
            replacing(path) as temporary,
        ):
            # a name in a script that the font lacks is drawn as boxes; nothing else is lost
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(temporary, format=kind, metadata=metadata, dpi=160)
        paths.append(path)
    return paths
