"""Put the sweep.csv of one or more sweeps of a model into one markdown table.

    python scripts/tabulate_sweeps.py runs/opt-within runs/opt-global runs/opt-random

A row per method and action, a column per judge and fraction of heads removed. Random draws show
their mean and 95% of draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from deadhead.display import NOTHING, number
from deadhead.report import TextTable


def judges_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (judge, column of its metric)."""
    names = [c.removesuffix(" low") for c in table.columns if c.endswith(" low")]
    names = [n for n in names if f"{n} high" in table.columns and "speedup" not in n]
    columns = list(table.columns)
    return [(name, columns[columns.index(f"{name} low") - 1]) for name in names]


def cell(row: pd.Series, judge: str, column: str) -> str:
    """Print one value, with the range of draws if it was drawn."""
    if pd.isna(row[column]):
        return NOTHING
    text = number(row[column])
    if row.draws:
        text += f" [{number(row[f'{judge} low'])}, {number(row[f'{judge} high'])}]"
    return text


def main() -> None:
    """Read the sweeps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sweeps", nargs="+", type=Path)
    args = parser.parse_args()
    table = pd.concat([pd.read_csv(folder / "sweep.csv") for folder in args.sweeps])
    judges = judges_of(table)
    dense = table[table.method == "dense"].iloc[0]
    said = [f"{column.split()[-1]} {cell(dense, judge, column)}" for judge, column in judges]
    print(f"dense: {', '.join(said)}\n")
    table = table[table.method != "dense"].drop_duplicates(["method", "action", "asked"])
    shares = sorted(table.asked.unique())
    columns = ["method", "action"]
    columns += [f"{c.split()[-1]} {share:.0%}" for _, c in judges for share in shares]
    rows = []
    for (method, action), lines in table.groupby(["method", "action"], sort=False):
        by_share = {row.asked: row for _, row in lines.iterrows()}
        cells = [
            cell(by_share[share], judge, column) if share in by_share else NOTHING
            for judge, column in judges
            for share in shares
        ]
        draws = int(lines.draws.max())
        rows.append([method + (f", {draws} draws" if draws else ""), action, *cells])
    print(TextTable(tuple(columns), rows, words=("method", "action")).markdown())


if __name__ == "__main__":
    main()
