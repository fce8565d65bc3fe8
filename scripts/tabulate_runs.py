"""Print the results table of several run folders, and draw their curves in one figure.

python scripts/tabulate_runs.py RUN [RUN ...] [--figure docs/images/NAME]

A run is named by its title; runs of equal titles are told apart by their folders.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from deadhead.display import NOTHING, number, short_names
from deadhead.report import RunSummary, TextTable, curve_figure, save_figure, summary_table


def read(folder: Path) -> RunSummary:
    """Read a run folder back into a summary."""
    values = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name in ("plan", "scores"):
        file = folder / f"{name}.json"
        values[name] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return RunSummary.from_json(values)


def named(folders: list[Path]) -> dict[str, RunSummary]:
    """Read runs by names that are unique: their titles, with the folder where titles are equal."""
    runs = {str(folder.resolve()): read(folder) for folder in folders}
    count, short = Counter(run.title for run in runs.values()), short_names(runs)
    return {
        run.title if count[run.title] == 1 else f"{run.title} ({short[folder]})": run
        for folder, run in runs.items()
    }


def random_row(summary: RunSummary, columns: tuple[str, ...]) -> list[str]:
    """The random baseline as a line: mean, and the interval of the draws."""
    baseline = summary.random
    cells = dict.fromkeys(columns, NOTHING)
    cells["run"] = f"random, {baseline.n_draws} draws: mean [95% of draws]"
    cells["dense"] = number(baseline.mean[0])
    for name in columns:
        if name.startswith("at "):
            sparsity = float(name.removeprefix("at ").removesuffix("%")) / 100
            mean, low, high = baseline.at(sparsity=sparsity)
            cells[name] = f"{number(mean)} [{number(low)}, {number(high)}]"
    areas = baseline.auc()
    low, high = np.quantile(areas, [0.025, 0.975])
    cells["AUC"] = f"{number(areas.mean())} [{number(low)}, {number(high)}]"
    return list(cells.values())


def table_of(runs: dict[str, RunSummary]) -> TextTable:
    """Return a row per run, and one for the first random baseline."""
    table = summary_table({name: run.trajectory for name, run in runs.items()})
    columns = (*table.columns, "minutes")
    minutes = [sum(step.seconds for step in run.trajectory) / 60 for run in runs.values()]
    rows = [[*row, f"{m:.0f}"] for row, m in zip(table.rows, minutes, strict=True)]
    rows += [random_row(run, columns) for run in runs.values() if run.random is not None][:1]
    return TextTable(columns, rows, words=("run",), title=table.title)


def main() -> None:
    """Read the runs, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    runs = named(args.runs)
    chosen = {name: run for name, run in runs.items() if run.chosen_by != "random"}
    table = table_of(chosen)
    print(f"{table.title}\n\n{table.markdown()}")
    if args.figure:
        random = next((run.random for run in runs.values() if run.random is not None), None)
        curves = {name: run.trajectory for name, run in chosen.items()}
        save_figure(curve_figure(curves, random=random), args.figure.parent, args.figure.name)


if __name__ == "__main__":
    main()
