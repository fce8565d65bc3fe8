"""How benchmarks print their rows: for the terminal, and as markdown for the docs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from deadhead.report import TextTable


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows twice; the first column is words."""
    table = TextTable(tuple(columns), [list(row) for row in rows], (columns[0],), title)
    Console().print(table)
    print(table.markdown())
