import io

import numpy as np
from rich.console import Console

from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.report import markdown_table, score_table, speed_table, step_table, summary_table
from deadhead.report.tables import LONG, step_rows, summary_rows
from deadhead.types import Head, HeadMask, HeadScores

from .conftest import make_speed, make_trajectory


def show(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_long_runs_are_abbreviated_in_the_middle_unless_full():
    run = make_trajectory(counts=(60,), n_steps=59, loss=0.01)
    short, full = step_rows(run).rows, step_rows(run, full=True).rows
    assert len(full) == 60
    assert len(short) == LONG + 1
    assert short[0] == full[0]
    assert short[-1] == full[-1]
    assert short[LONG // 2][3] == f"{60 - LONG} more steps"
    assert "more steps" in show(step_table(run))
    assert "more steps" not in show(step_table(run, full=True))


def test_runs_that_just_fit_are_not_abbreviated():
    assert len(step_rows(make_trajectory((40,), n_steps=LONG - 1)).rows) == LONG


def test_many_heads_of_one_step_are_counted():
    full = HeadMask.full((12,))
    gone = full.heads[:10]
    run = Trajectory(Step(full, (), 0.9, 0), (Step(full.drop(*gone), gone, 0.5, 1.0),))
    assert step_rows(run).rows[1][3] == "0.0 0.1 0.2 0.3 0.4 0.5 … 4 more"
    assert step_rows(run, full=True).rows[1][3] == " ".join(map(str, gone))


def test_step_table_gives_the_difference_to_dense():
    assert step_rows(make_trajectory()).rows[2][4:6] == ["0.800", "-0.100"]


def test_summary_table_reads_the_curve():
    run = make_trajectory(counts=(4,), n_steps=4, dense=1.0, loss=0.1)
    text = show(summary_table({"ours": run}))
    cells = ["ours", "accuracy", "1.000", "0.900", "0.800", "0.700", "0.640", "0.800"]
    assert [*cells, "0.0%", "0.0%"] in [line.split() for line in text.splitlines()]


def test_summary_table_draws_no_line_across_what_was_not_measured():
    full = HeadMask.full((40,))
    gone = [Head(0, i) for i in range(30)]
    run = Trajectory(Step(full, (), 0.9, 0), (Step(full.drop(*gone), tuple(gone), 0.5, 1.0),))
    columns, (row,) = summary_rows({"ours": run}).columns, summary_rows({"ours": run}).rows
    assert [row[columns.index(f"at {at}%")] for at in (25, 50, 75, 90)] == ["—", "—", "0.500", "—"]


def test_summary_table_of_an_unevaluated_run_has_dashes():
    text = show(summary_table(make_trajectory(n_steps=0, dense=float("nan"))))
    assert "nan" not in text
    assert "—" in text


def test_score_table_lists_the_lowest_first_and_ragged_blocks():
    scores = HeadScores((np.array([3.0, -np.inf]), np.array([np.nan, 1.0, 2.0])), "taylor")
    lowest = [line.split() for line in show(score_table(scores, lowest=2)).splitlines()]
    assert ["1", "0.1", "-inf"] in lowest
    assert ["2", "1.1", "1"] in lowest
    blocks = [line.split() for line in show(score_table(scores)).splitlines()]
    assert ["0", "3", "-inf"] in blocks
    assert ["1", "—", "1", "2"] in blocks


def test_speed_table_shows_the_ceiling():
    text = show(speed_table([make_speed()]))
    for cell in ("1.06x", "1.07x", "10.60", "10.00", "1.05 to 1.06", "128"):
        assert cell in text


def test_names_are_not_read_as_markup():
    assert "[red]x[/red] [/]" in show(summary_table({"[red]x[/red] [/]": make_trajectory()}))


def test_markdown_cells_cannot_break_the_table():
    table = markdown_table([["a|b\nc", "<b>"], [1, 2.5]], ["x", "y"], words=["x"])
    assert table.splitlines() == [
        "| x | y |",
        "| :-- | --: |",
        "| a\\|b c | &lt;b> |",
        "| 1 | 2.5 |",
    ]
