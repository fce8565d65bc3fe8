"""How benchmarks print their rows: for the terminal, and as markdown for the docs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from deadhead.report import markdown_table


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows twice; the first column is words."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)
    print(markdown_table(rows, columns, words=(columns[0],)))
