"""The table of removed heads: what each cost, and how every criterion scored it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deadhead.display.words import NOTHING, short_name, short_names, signed
from deadhead.report.text_table import TextTable
from deadhead.studies.explanation import Explanation, RemovedHead

REGAINED = "repair regained"


def removed_table(explanation: Explanation, criteria: Sequence[str] = ()) -> TextTable:
    """List the removed heads in order: what each cost, then what `criteria` say of it.

    A criterion's cell is its score of the dense model and the rank of it, 1 = least important.
    """
    shared = any(row.together > 1 for row in explanation.rows)
    columns = ["head", "step"]
    columns += ["as"] if _copies(explanation) else []
    columns += ["score then", f"{explanation.metric} change"]
    columns += _measures(explanation)
    rows = []
    for row in explanation.rows:
        cells = [str(row.head), f"{row.step} ({row.together} heads)" if shared else str(row.step)]
        if _copies(explanation):
            cells.append(NOTHING if row.source is None else str(row.source))
        cells += [_value(row.score), _change(row)]
        if explanation.measured:
            cells += [_value(row.before), _value(row.after)]
        if REGAINED in columns:
            cells.append(_value(row.given_back))
        rows.append([*cells, *_scores(row, criteria)])
    return TextTable((*columns, *short_names(criteria).values()), rows)


def legend(explanation: Explanation) -> list[str]:
    """Explain the columns of the table, and what is missing."""
    lines = []
    if explanation.chosen_by:
        lines.append(
            f"Score then: by {short_name(explanation.chosen_by)}, when the head was chosen."
        )
    if any(row.change_over > 1 for row in explanation.rows):
        lines.append("A change over several heads counts from the last evaluated step.")
    if explanation.criteria:
        lines.append(
            "Scores are of the dense model; in brackets the rank among its"
            f" {explanation.n_heads} heads, 1 = least important{_of_losses(explanation)}."
        )
    if explanation.measured:
        repaired = (
            f", repaired by {explanation.repair}; {REGAINED}: how much larger it is after the step"
            " without the repair"
        )
        lines.append(
            "KL: divergence from the dense model before and after the step, in nats, on"
            f" {explanation.measured} calibration samples"
            f"{repaired if explanation.repair != 'none' else ''}."
        )
    return [*lines, *(f"Note: {note}." for note in explanation.notes)]


def _of_losses(explanation: Explanation) -> str:
    by_loss: dict[str, list[str]] = {}
    for name, loss in explanation.criteria.items():
        if loss is not None:
            by_loss.setdefault(loss, []).append(name)
    return "".join(f"; {', '.join(names)} by the loss {loss}" for loss, names in by_loss.items())


def _copies(explanation: Explanation) -> bool:
    return any(row.source is not None for row in explanation.rows)


def _measures(explanation: Explanation) -> list[str]:
    if not explanation.measured:
        return []
    return ["KL before", "KL after", *([REGAINED] if explanation.repair != "none" else [])]


def _scores(row: RemovedHead, criteria: Sequence[str]) -> list[str]:
    return [
        f"{_value(row.scores[name])} ({row.ranks.get(name, NOTHING)})" if name in row.scores else ""
        for name in criteria
    ]


def _change(row: RemovedHead) -> str:
    """Print the change of the metric, and over how many heads if they are several."""
    return signed(row.change) + (f" ({row.change_over} heads)" if row.change_over > 1 else "")


def _value(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.3g}"
