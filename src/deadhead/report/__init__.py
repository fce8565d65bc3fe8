"""What a run is shown as: tables, figures, an HTML page, a model card; and timings.

Figures need matplotlib (`pip install 'deadhead[plot]'`); everything else works without.
"""

from deadhead.report.card import model_card
from deadhead.report.explained import legend, rank_rows, removed_rows
from deadhead.report.figures import curve_figure, head_map_figure, save_figure
from deadhead.report.html import write_report
from deadhead.report.summary import RunSummary
from deadhead.report.tables import (
    markdown_table,
    score_table,
    speed_table,
    step_table,
    summary_table,
)
from deadhead.report.wording import caveats, outcome

__all__ = [
    "RunSummary",
    "caveats",
    "curve_figure",
    "head_map_figure",
    "legend",
    "markdown_table",
    "model_card",
    "outcome",
    "rank_rows",
    "removed_rows",
    "save_figure",
    "score_table",
    "speed_table",
    "step_table",
    "summary_table",
    "write_report",
]
