"""What a run is shown as: tables, figures, an HTML page, a model card.

Figures need matplotlib (`pip install 'deadhead[plot]'`); everything else works without.
"""

from deadhead.report.page import TextTable
from deadhead.report.run_figures import curve_figure, head_map_figure
from deadhead.report.run_page import model_card, write_report
from deadhead.report.style import save_figure
from deadhead.report.summary import RunSummary, caveats, outcome
from deadhead.report.tables import (
    legend,
    removed_table,
    score_table,
    speed_table,
    step_table,
    summary_table,
)

__all__ = [
    "RunSummary",
    "TextTable",
    "caveats",
    "curve_figure",
    "head_map_figure",
    "legend",
    "model_card",
    "outcome",
    "removed_table",
    "save_figure",
    "score_table",
    "speed_table",
    "step_table",
    "summary_table",
    "write_report",
]
