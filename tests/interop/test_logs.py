from __future__ import annotations

from dataclasses import replace

import pytest

from deadhead.errors import DataError, FileFormatError, HeadError, UnknownNameError
from deadhead.interop import read_pruning_log, write_pruning_log
from deadhead.types import Head, HeadMask, PruningPlan

COUNTS = (4, 4, 4)
COPIES = {Head(0, 3): Head(0, 1), Head(0, 0): Head(0, 1), Head(2, 2): Head(2, 0)}
ACROSS = {**COPIES, Head(2, 1): Head(0, 2)}


def log(tmp_path, text):
    path = tmp_path / "pruning_log.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def plan_of(copies):
    return PruningPlan(HeadMask.full(COUNTS).drop(*copies), copies, "duplicate")


@pytest.mark.parametrize(
    ("text", "copies"),
    [
        ("0, 1, 3\n0, 1, 0\n2, 0, 2\n", COPIES),
        ("0,1,3\r\n\r\n0,1,0\r\n2,0,2", COPIES),
        ("\ufefflayer, kept, removed\n0 1 3\n0\t1\t0\n 2 , 0 , 2 \n", COPIES),
        ("Layer kept layer removed\n0, 1, 0, 3\n0, 1, 0, 0\n2, 0, 2, 2\n0, 2, 2, 1\n", ACROSS),
        ("0, 1, 3\n0, 1, 0\n0, 1, 3\n2, 0, 2\n", COPIES),  # said twice
    ],
)
def test_logs_of_every_form_are_read(tmp_path, text, copies):
    plan = read_pruning_log(log(tmp_path, text), counts=COUNTS)
    assert plan.copies == copies
    assert set(plan.mask.dropped) == set(copies)
    assert (plan.mask.counts, plan.action, plan.slope) == (COUNTS, "duplicate", "target")
    assert plan.provenance["file"] == "pruning_log.txt"
    assert "chains" not in plan.provenance
    assert PruningPlan.from_json(plan.to_json()) == plan


def test_action_and_slope_are_those_asked_for(tmp_path):
    path = log(tmp_path, "0, 1, 3\n")
    plan = read_pruning_log(path, counts=COUNTS, action="fold", slope="source")
    assert (plan.action, plan.slope) == ("fold", "source")
    with pytest.raises(UnknownNameError, match="action 'folt' is not known; did you mean 'fold'"):
        read_pruning_log(path, counts=COUNTS, action="folt")


def test_the_fingerprint_changes_with_the_log(tmp_path):
    prints = {
        read_pruning_log(log(tmp_path, text), counts=COUNTS).provenance["fingerprint"]
        for text in ("0, 1, 3\n", "0, 1, 2\n", "0, 1, 3\n")
    }
    assert len(prints) == 2


@pytest.mark.parametrize("lines", ["0, 1, 2\n0, 2, 3\n", "0, 2, 3\n0, 1, 2\n"])
def test_chains_end_at_the_last_source_in_any_order(tmp_path, lines):
    plan = read_pruning_log(log(tmp_path, lines), counts=COUNTS)
    assert plan.copies == {Head(0, 2): Head(0, 1), Head(0, 3): Head(0, 1)}
    assert plan.provenance["chains"] == {"0.3": "0.2 -> 0.1"}


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", FileFormatError, "lists no head; an empty log never means the unpruned model"),
        ("\n \n", FileFormatError, "lists no head"),
        ("layer, kept, removed\n", FileFormatError, "lists no head"),
        ("0, 1, 2\n0, 1\n", FileFormatError, "line 2 of .* has 2 columns; a pruning log has 3"),
        ("0, 1, 2, 3, 4\n", FileFormatError, "line 1 of .* has 5 columns"),
        ("0, 1, 2\n\n0, 1, 0, 3\n", FileFormatError, "line 3 of .* has 4 columns and .* have 3"),
        ("0, 1, 2\n0, x, 3\n", FileFormatError, "line 2 of .* has 'x', which is not a whole"),
        ("0, 1, 2\nlayer, kept, gone\n", FileFormatError, "line 2 of .* has 'layer'"),
        ("a b c\na b c\n0 1 2\n", FileFormatError, "line 2 of .* has 'a'"),
        ("0, 1, 2.0\n", FileFormatError, "has '2.0', which is not a whole number"),
        ("0, 1, 2,\n", FileFormatError, "has '', which is not a whole number"),
        ("0, 1, 99999999999\n", FileFormatError, "which is not a whole number"),
        ("0, -1, 2\n", FileFormatError, "line 1 of .* has -1; layers and heads count from 0"),
        (b"\x80\x04\x95", FileFormatError, "is not UTF-8 text"),
        (b"0, 1\0, 2", FileFormatError, "is binary"),
        (
            "0, 1, 2\n39, 12, 1\n",
            HeadError,
            "line 2 of .* head 39.12, the model has 3 blocks of 4",
        ),
        ("0, 1, 4\n", HeadError, "names head 0.4, .* is it a log of another model"),
        ("0, 4, 1\n", HeadError, "names head 0.4"),
        ("0, 1, 3, 1\n", HeadError, "names head 3.1"),
        ("0, 1, 1\n", HeadError, "line 1 of .* removes head 0.1 in favor of itself"),
        ("0, 1, 2\n0, 3, 2\n", HeadError, "line 2 of .* replaces head 0.2 by 0.3, .* by 0.1"),
        ("0, 1, 2\n0, 2, 1\n", HeadError, "in a circle .*0.2 <- 0.1 <- 0.2"),
        ("0, 3, 0\n0, 1, 3\n0, 2, 1\n0, 3, 2\n", HeadError, "in a circle"),
    ],
)
def test_bad_logs_are_refused_with_their_line(tmp_path, text, kind, message):
    with pytest.raises(kind, match=message) as caught:
        read_pruning_log(log(tmp_path, text), counts=COUNTS)
    assert "\n" not in str(caught.value)
    assert "pruning_log.txt" in str(caught.value)


def test_a_missing_log_is_no_unpruned_model(tmp_path):
    with pytest.raises(DataError, match=r"no file .*never the unpruned model"):
        read_pruning_log(tmp_path / "nowhere.txt", counts=COUNTS)
    with pytest.raises(DataError, match="not a regular file"):
        read_pruning_log(tmp_path, counts=COUNTS)


@pytest.mark.parametrize(("columns", "copies"), [(3, COPIES), (4, COPIES), (4, ACROSS)])
def test_logs_come_back_as_they_were_written(tmp_path, columns, copies):
    path, plan = tmp_path / "new" / "log.txt", plan_of(copies)
    write_pruning_log(plan, path, columns=columns)
    again = read_pruning_log(path, counts=COUNTS)
    assert replace(again, provenance={}) == plan
    assert list(again.copies) == list(copies)
    assert path.read_text().count(",") == (columns - 1) * len(copies)
    write_pruning_log(again, path, columns=columns)
    assert read_pruning_log(path, counts=COUNTS) == again


@pytest.mark.parametrize(
    ("plan", "columns", "kind", "message"),
    [
        (plan_of(ACROSS), 3, HeadError, "head 2.1 is a copy of 0.2 in another block.*4 columns"),
        (plan_of({}), 3, HeadError, "removes no head; an empty log"),
        (replace(plan_of(COPIES), copies={}), 3, HeadError, "head 0.0 is removed without a source"),
        (replace(plan_of({}), copies=COPIES), 4, HeadError, "removes no head"),
        (
            replace(plan_of(COPIES), mask=HeadMask.full(COUNTS).drop(Head(0, 3), Head(0, 0))),
            4,
            HeadError,
            "head 2.2 is copied but not removed",
        ),
        (plan_of(COPIES), 5, FileFormatError, "has 3 or 4 columns, not 5"),
    ],
)
def test_what_a_log_cannot_say_is_not_written(tmp_path, plan, columns, kind, message):
    path = log(tmp_path, "0, 1, 2\n")
    with pytest.raises(kind, match=message):
        write_pruning_log(plan, path, columns=columns)
    assert path.read_text() == "0, 1, 2\n"
    assert list(tmp_path.iterdir()) == [path]
