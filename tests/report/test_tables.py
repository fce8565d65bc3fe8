import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.report import (
    TextTable,
    removed_table,
    score_table,
    speed_table,
    step_table,
    summary_table,
)
from deadhead.report.page import data_table, provenance_table
from deadhead.report.similarity_page import agreement_table, removed_share_table
from deadhead.report.sweep_page import SweepSummary, sweep_table
from deadhead.report.tables import LONG, cost_table
from deadhead.similarity.agreement import RemovedShare
from deadhead.studies.grid import Line, Reading
from deadhead.types import Head, HeadMask, HeadScores

from .conftest import make_speed, make_trajectory
from .test_explained import MEASURED


def show(table, width=200):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_long_runs_are_abbreviated_in_the_middle_unless_full():
    run = make_trajectory(counts=(60,), n_steps=59, loss=0.01)
    short, full = step_table(run).rows, step_table(run, full=True).rows
    assert len(full) == 60
    assert len(short) == LONG + 1
    assert short[0] == full[0]
    assert short[-1] == full[-1]
    assert short[LONG // 2][3] == f"{60 - LONG} more steps"
    assert "more steps" in show(step_table(run))
    assert "more steps" not in show(step_table(run, full=True))


def test_runs_that_just_fit_are_not_abbreviated():
    assert len(step_table(make_trajectory((40,), n_steps=LONG - 1)).rows) == LONG


def test_many_heads_of_one_step_are_counted():
    full = HeadMask.full((12,))
    gone = full.heads[:10]
    run = Trajectory(Step(full, (), 0.9, 0), (Step(full.drop(*gone), gone, 0.5, 1.0),))
    assert step_table(run).rows[1][3] == "0.0 0.1 0.2 0.3 0.4 0.5 … 4 more"
    assert step_table(run, full=True).rows[1][3] == " ".join(map(str, gone))


def test_step_table_gives_the_difference_to_dense():
    assert step_table(make_trajectory()).rows[2][4:6] == ["0.800", "-0.100"]


def test_summary_table_reads_the_curve():
    run = make_trajectory(counts=(4,), n_steps=4, dense=1.0, loss=0.1)
    text = show(summary_table({"ours": run}))
    cells = ["ours", "1.000", "0.900", "0.800", "0.700", "0.640", "0.800"]
    assert [*cells, "0.0%", "0.0%"] in [line.split() for line in text.splitlines()]


def test_summary_table_draws_no_line_across_what_was_not_measured():
    full = HeadMask.full((40,))
    gone = [Head(0, i) for i in range(30)]
    run = Trajectory(Step(full, (), 0.9, 0), (Step(full.drop(*gone), tuple(gone), 0.5, 1.0),))
    columns, (row,) = summary_table({"ours": run}).columns, summary_table({"ours": run}).rows
    assert [row[columns.index(f"at {at}%")] for at in (25, 50, 75, 90)] == ["—", "—", "0.500", "—"]


def test_summary_table_of_an_unevaluated_run_has_dashes():
    text = show(summary_table(make_trajectory(n_steps=0, dense=float("nan"))))
    assert "nan" not in text
    assert "—" in text


def test_score_table_lists_ragged_blocks():
    scores = HeadScores((np.array([3.0, -np.inf]), np.array([np.nan, 1.0, 2.0])), "taylor")
    blocks = [line.split() for line in show(score_table(scores)).splitlines()]
    assert ["0", "3", "-inf"] in blocks
    assert ["1", "—", "1", "2"] in blocks


def test_speed_table_shows_the_ceiling():
    text = show(speed_table([make_speed()]))
    for cell in (
        "1.06x faster",
        "1.07x",
        "10.60",
        "10.00",
        "1.05 to 1.06",
        "128",
        "cpu, 2 threads",
    ):
        assert cell in text


def test_names_are_not_read_as_markup():
    assert "[red]x[bold]" in show(summary_table({"[red]x[bold]": make_trajectory()}))


def test_markdown_cells_cannot_break_the_table():
    table = TextTable(("x", "y"), [["a|b\nc", "<b>"], ["1", "2.5"]], words=("x",)).markdown()
    assert table.splitlines() == [
        "| x | y |",
        "| :-- | --: |",
        "| a\\|b c | &lt;b> |",
        "| 1 | 2.5 |",
    ]


LONG_NAME = "/home/someone/models/" + "a-model-with-a-very-long-name-" * 4 + "v2"
METHOD = "greedy reconstruction:ridge=0.01 + least_squares + distill of everything"


def wide_tables(full):
    """Every table that the terminal shows, with long names of models, methods and data."""
    trajectory = make_trajectory(counts=(12,) * 12, n_steps=70, metric="matthews_correlation")
    sizes = {"parameters": 12_345_678_901.0}
    for key in ("speedup", "speedup low", "speedup high", "ceiling"):
        sizes |= {f"prefill {key}": 1.06, f"decode {key}": 1.0601}
    judged = {f"{LONG_NAME}/{i}.tsv": Reading("perplexity", 12345.6, 1.0, 2.0) for i in range(3)}
    line = Line(
        METHOD, "duplicate", 0.25, 123, 0.25, readings=judged, seconds=12.0, size=sizes, draws=20
    )
    refused = replace(line, readings={}, reason=f"gqa policy forbids it: {METHOD}")
    heads = tuple(
        replace(row, scores={f"{LONG_NAME}{i}": 1.23e-7 for i in range(9)}, source=Head(11, 10))
        for row in MEASURED.rows
    )
    named = dict.fromkeys(heads[0].scores, "task")
    agreement = {"first": LONG_NAME, "second": LONG_NAME + "b", "mean": 0.5, "low": 0, "high": 1}
    return {
        "steps": step_table(trajectory),
        "summary": summary_table({LONG_NAME: trajectory, METHOD: trajectory}),
        "scores": score_table(HeadScores((np.full(40, -1.234e-5),), LONG_NAME)),
        "speed": speed_table([make_speed(device="NVIDIA H100 80GB HBM3", ms_before=98765.4)]),
        "sweep": sweep_table(SweepSummary(LONG_NAME, [line, refused])),
        "explain": removed_table(replace(MEASURED, rows=heads, criteria=named), [*named]),
        "agreement": agreement_table(pd.DataFrame([{**agreement, "pairs": 45}])),
        "removed": removed_share_table([RemovedShare(0.5, 0.1, 0.0, 1.0, 5, 12, 144)], LONG_NAME),
        "cost": cost_table(full),
        "data": data_table({"test": {"name": LONG_NAME, "fingerprint": "a" * 64}}),
        "provenance": provenance_table({"versions": {"torch": LONG_NAME}}, {"model": LONG_NAME}),
    }


@pytest.mark.parametrize("width", [80, 60, 200])
def test_every_table_fits_the_terminal_and_cuts_nothing_off(full, width):
    for name, table in wide_tables(full).items():
        text = show(table, width)
        lines = text.splitlines()
        assert max(map(len, map(str.rstrip, lines))) <= width, name
        assert "…" not in text.replace("… more", "") or name == "steps", name
        squeezed = "".join(text.split())
        for row in table.rows:
            for cell in row:
                words = cell.split()
                assert all(word in squeezed for word in words if len(word) < 12), (name, cell)


def test_no_path_becomes_a_title_or_a_column_header(full):
    for name, table in wide_tables(full).items():
        for text in (table.title, *table.columns):
            assert "/home" not in text, name


def test_a_split_table_repeats_what_tells_its_rows_apart():
    columns = tuple(f"criterion {i}" for i in range(20))
    table = TextTable(("head", *columns), [["3.7", *("0.123 (99)" for _ in columns)]])
    text = show(table, 80)
    assert text.count("head") == text.count("3.7") > 1
    assert text.count("0.123") == 20
    assert str(table) == text.rstrip()
