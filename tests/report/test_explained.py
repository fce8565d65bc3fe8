"""The table of removed heads, in a page and in the terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deadhead.report import RunSummary, legend, removed_table
from deadhead.report.run_page import run_page
from deadhead.studies.explanation import Explanation, RemovedHead
from deadhead.types import Head

FOUND = Explanation(
    rows=(
        RemovedHead(Head(0, 1), 1, 1, None, 0.25, {"taylor": 0.25}, {"taylor": 3}, -0.1, 1),
        RemovedHead(Head(1, 0), 2, 1, None, 0.5, {"taylor": float("nan")}, {}, 0.02, 1),
    ),
    metric="accuracy",
    criteria={"taylor": "task", "magnitude": None},
    n_heads=9,
    chosen_by="taylor",
)
MEASURED = replace(
    FOUND,
    rows=tuple(replace(r, before=0.0, after=0.125, unrepaired=0.5) for r in FOUND.rows),
    measured=7,
    repair="bias",
)


def test_a_row_says_what_is_known_and_dashes_the_rest():
    table = removed_table(FOUND, ["taylor", "magnitude"])
    assert table.columns == ("head", "step", "score then", "accuracy change", "taylor", "magnitude")
    assert table.rows == [
        ["0.1", "1", "0.25", "-0.100", "0.25 (3)", ""],
        ["1.0", "2", "0.5", "+0.020", "— (—)", ""],
    ]


def test_measured_divergences_get_columns_and_a_repair_what_it_gave_back():
    table = removed_table(MEASURED)
    assert table.columns[-3:] == ("KL before", "KL after", "repair regained")
    assert table.rows[0][-3:] == ["0", "0.125", "0.375"]
    assert removed_table(replace(MEASURED, repair="none")).columns[-1] == "KL after"
    assert any("7 calibration samples" in line for line in legend(MEASURED))
    assert not any("KL" in line for line in legend(FOUND))


def test_steps_of_several_heads_and_copies_are_named():
    row = replace(FOUND.rows[0], together=2, source=Head(0, 0), change_over=2)
    table = removed_table(replace(FOUND, rows=(row,)))
    assert table.rows == [["0.1", "1 (2 heads)", "0.0", "0.25", "-0.100 (2 heads)"]]
    assert table.columns[2] == "as"


def test_the_legend_names_losses_ranks_and_what_is_missing():
    lines = " ".join(legend(replace(FOUND, notes=("fisher is left out: nothing",))))
    for words in ("by taylor", "its 9 heads", "taylor by the loss task", "fisher is left out"):
        assert words in lines


@pytest.mark.parametrize("explanation", [None, FOUND])
def test_the_page_lists_removed_heads_if_it_knows_them(bare, explanation):
    page = run_page(replace(bare, explanation=explanation)).render({})
    assert ("Removed heads" in page) == (explanation is not None)
    assert ("0.25 (3)" in page) == (explanation is not None)


def test_a_summary_keeps_its_explanation(bare):
    summary = replace(bare, explanation=replace(FOUND, rows=FOUND.rows[:1]))
    back = RunSummary.from_json(summary.to_json())
    assert back.explanation is not None
    assert back.to_json() == summary.to_json()
    older = {k: v for k, v in summary.to_json().items() if k != "explanation"}
    assert RunSummary.from_json(older).explanation is None
