"""A diagnosis as tables and advice."""

from __future__ import annotations

from typing import Any

from deadhead.report.text_table import TextTable
from deadhead.scoring.diagnose import Diagnosis


def diagnosis_table(found: Diagnosis) -> list[Any]:
    """Return what to print: gradient norms per block and projection, then what to do."""
    columns = ("block", "projection", "smallest", "median", "largest", "zero heads")
    rows = [
        [
            str(row.block),
            row.projection,
            *(f"{x:.2e}" for x in (row.smallest, row.median, row.largest)),
            str(row.zero),
        ]
        for row in found.rows
    ]
    title = f"gradient norms of {found.loss} per head, {found.samples} samples, {found.dtype}"
    shown = found.not_finite[:8]
    more = len(found.not_finite) - len(shown)
    return [
        TextTable(columns, rows, words=("projection",), title=title, keys=2),
        *(f"not finite: {line}" for line in shown),
        *([f"not finite: and {more} more places"] if more > 0 else []),
        *(f"advice: {line}" for line in found.advice),
    ]
