"""The table of removed heads: what they cost, and what every criterion said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deadhead.report.tables import Rows
from deadhead.report.wording import NOTHING, signed
from deadhead.studies.explanation import Explanation, RemovedHead


def removed_rows(explanation: Explanation, criteria: Sequence[str] = ()) -> Rows:
    """List the heads that went, in that order: what each cost, then what `criteria` say of it.

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
        if "gave back" in columns:
            cells.append(_value(row.given_back))
        rows.append([*cells, *_said(row, criteria)])
    return Rows((*columns, *criteria), rows)


def rank_rows(explanation: Explanation, criteria: Sequence[str]) -> Rows:
    """List what criteria say of the heads that went: score and rank, 1 = least important."""
    rows = [[str(row.head), *_said(row, criteria)] for row in explanation.rows]
    return Rows(("head", *criteria), rows)


def legend(explanation: Explanation) -> list[str]:
    """Say how the table is to be read, a line per matter, and what is missing."""
    lines = []
    if explanation.chosen_by:
        lines.append(f"Score then: by {explanation.chosen_by}, when the head was chosen.")
    if any(row.change_over > 1 for row in explanation.rows):
        lines.append("A change over several heads is that since the last step that was evaluated.")
    if explanation.criteria:
        lines.append(
            "Scores are those of the dense model, with ranks among its"
            f" {explanation.n_heads} heads, 1 = least important{_of_losses(explanation)}."
        )
    if explanation.measured:
        repaired = (
            f", repaired by {explanation.repair}; gave back: how much further it would be after the"
            " step without the repair"
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
    return ["KL before", "KL after", *(["gave back"] if explanation.repair != "none" else [])]


def _said(row: RemovedHead, criteria: Sequence[str]) -> list[str]:
    return [
        f"{_value(row.scores[name])} ({row.ranks.get(name, NOTHING)})" if name in row.scores else ""
        for name in criteria
    ]


def _change(row: RemovedHead) -> str:
    """Print the change of the metric, and over how many heads if they are several."""
    return signed(row.change) + (f" ({row.change_over} heads)" if row.change_over > 1 else "")


def _value(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.3g}"
