"""The page of the kinds of task: it names each, its metrics and a row of it that can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

from deadhead.cli import command
from deadhead.data.rows import Columns, Rows
from deadhead.tasks import KINDS
from tiny_text import HEADS, make_model, make_tokenizer, rows_of

PAGE = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
MEDIA = ("image_classification", "speech_recognition")


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def rows_under(head):
    """Return the cells of the table whose first line starts with `head`, by kind."""
    lines = PAGE[PAGE.index(head) :].split("\n\n")[0].splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {kind: row for row in cells for kind in quoted(row[0])}


METRICS = rows_under("| kind | model |")
ROWS = rows_under("| kind | a row")


def test_every_kind_has_a_line_with_its_metric_and_a_row():
    assert set(METRICS) == set(ROWS) == set(KINDS)
    for kind, (_, _, metric, *_) in METRICS.items():
        assert quoted(metric) == [KINDS[kind].metric]


@pytest.mark.parametrize("kind", HEADS)
def test_the_other_metrics_are_those_that_are_measured(kind):
    model = make_model(kind, HEADS[kind][2][0])
    rows = Rows.of(pd.DataFrame(rows_of(kind, 6)), "rows")
    task = KINDS[kind](
        KINDS[kind].read(rows, Columns()), make_tokenizer(segments=False), config=model.config
    )
    found = set(task.evaluate(model).metrics) - {"tokens"}  # a count
    assert found == {KINDS[kind].metric, *quoted((METRICS[kind] + [""])[3])}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in MEDIA])
def test_the_row_is_read(kind):
    (row,) = quoted(ROWS[kind][1])
    rows = Rows.of(pd.DataFrame([json.loads(row)]), "rows")
    assert KINDS[kind].is_in(rows, Columns())
    assert len(KINDS[kind].read(rows, Columns())) == 1


def test_the_commands_have_the_options_that_they_use():
    app: Any = typer.main.get_command(command())
    known = {option for each in app.commands["prune"].params for option in each.opts}
    used = set(re.findall(r"(?<= )--?[a-z][a-z-]*", "\n".join(PAGE.split("```")[3::4])))
    assert used
    assert used <= known
