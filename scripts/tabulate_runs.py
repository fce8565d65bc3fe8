"""Print the results table of several run folders, and draw their curves in one figure.

python scripts/tabulate_runs.py RUN [RUN ...] [--figure docs/images/NAME]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from deadhead.report import RunSummary, curve_figure, markdown_table, save_figure

AT = (0.25, 0.5, 0.75)
COLUMNS = ("run", "dense", "25%", "50%", "75%", "AUC", "keeps 95% to", "keeps 99% to", "minutes")


def read(folder):
    """Read a run folder back into a summary."""
    values = json.loads((folder / "run.json").read_text())
    for name in ("plan", "scores"):
        values[name] = json.loads((folder / f"{name}.json").read_text())
    return RunSummary.from_json(values)


def row(summary):
    """One line of the table."""
    curve = summary.trajectory
    minutes = sum(step.seconds for step in curve) / 60
    return [
        summary.title,
        f"{curve.dense:.3f}",
        *(f"{curve.at(sparsity=s):.3f}" for s in AT),
        f"{curve.auc():.3f}",
        *(f"{curve.largest_keeping(f):.0%}" for f in (0.95, 0.99)),
        f"{minutes:.0f}",
    ]


def random_row(summary):
    """The random baseline as a line: mean, and the interval of the draws."""
    baseline = summary.random
    cells = []
    for sparsity in AT:
        mean, low, high = baseline.at(sparsity=sparsity)
        cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
    areas = baseline.auc()
    low, high = np.quantile(areas, [0.025, 0.975])
    title = f"random, {baseline.n_draws} draws: mean [95% of draws]"
    area = f"{areas.mean():.3f} [{low:.3f}, {high:.3f}]"
    return [title, f"{baseline.mean[0]:.3f}", *cells, area, "—", "—", "—"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    summaries = [read(folder) for folder in args.runs]
    baseline = next((s for s in summaries if s.random is not None), None)
    chosen = [s for s in summaries if s.scores.criterion != "random"]
    rows = [row(s) for s in chosen] + ([random_row(baseline)] if baseline else [])
    print(markdown_table(rows, COLUMNS, words=("run",)))
    if args.figure:
        curves = {s.title.partition(": ")[2]: s.trajectory for s in chosen}
        figure = curve_figure(curves, random=baseline.random if baseline else None)
        save_figure(figure, args.figure.parent, args.figure.name)


if __name__ == "__main__":
    main()
