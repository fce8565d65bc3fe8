from __future__ import annotations

import json

import pandas as pd
import pytest

from deadhead.data.formats import read_file, split_slice
from deadhead.errors import DataError, FileFormatError, UnknownNameError


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TABLE = [{"sentence": 'say "hi', "label": 1}, {"sentence": "bye, now", "label": 0}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tsv", 'say "hi\t1\nbye, now\t0\n'),
        ("x.tsv", 'sentence\tlabel\r\nsay "hi\t1\r\nbye, now\t0\r\n'),
        ("x.csv", 'sentence,label\n"say ""hi",1\n"bye, now",0\n'),
        ("x.csv", '"say ""hi",1\n"bye, now",0\n'),
        ("x.csv", 'sentence;label\n"say ""hi";1\nbye, now;0\n'),
        ("x.csv", '"say ""hi";1\nbye, now;0\n'),
        ("x.jsonl", "\n".join(json.dumps(row) for row in TABLE)),
        ("x.json", json.dumps(TABLE)),
        ("x.json", json.dumps({"data": TABLE})),
        ("x.json", json.dumps({"sentence": ['say "hi', "bye, now"], "label": [1, 0]})),
        ("x.TSV", b'\xef\xbb\xbfsentence\tlabel\nsay "hi\t1\nbye, now\t0'),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name, content):
    rows = read_file(write(tmp_path, name, content))
    assert rows.texts("sentence") == ['say "hi', "bye, now"]
    assert [int(v) for v in rows.values("label")] == [1, 0]


def test_parquet_gives_the_same_rows(tmp_path):
    pd.DataFrame(TABLE).to_parquet(tmp_path / "x.parquet")
    rows = read_file(tmp_path / "x.parquet")
    assert rows.texts("sentence") == ['say "hi', "bye, now"]
    assert rows.values("label") == [1, 0]


def test_text_files_are_lines_without_the_blank_ones(tmp_path):
    rows = read_file(write(tmp_path, "x.txt", "one\u2028line\n\n  \ntwo\n"))
    assert rows.texts("text") == ["one\u2028line", "two"]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a b\tpos\nc\tneg\nd\tpos\n", ["sentence", "label"]),
        ("a b\tpos\n", ["sentence", "label"]),  # pos is a label of the model
        ("1\ta b\n0\tc\n", ["label", "sentence"]),
        ("a\tb\t1\nc\td\t0\n", ["sentence1", "sentence2", "label"]),
        ("only text here\nand here\n", ["text"]),
        ("text\nand here\n", ["text"]),
        ("review\tstars\na\t1\n", ["review", "stars"]),
    ],
)
def test_a_header_is_told_from_data(tmp_path, content, columns):
    assert read_file(write(tmp_path, "x.tsv", content), labels={"pos"}).columns == columns


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"a": 1}\n{"a": \n', "line 2 of .* is not JSON .Expecting value"),
        ("x.jsonl", '{"a": 1}\n[1]\n', "line 2 of .* is not a JSON object"),
        ("x.jsonl", '{"a": ' * 100_000, "line 1 of .* is not JSON"),
        (
            "x.json",
            '{"a": 1}\n{"a": 1}',
            "Extra data.*one object a line",
        ),
        ("x.json", '{"a": [1], "b": []}', "is not a table; write a list of objects"),
        ("x.json", "3", "is not a table"),
        ("x.parquet", b"not parquet", "is no whole Parquet file"),
        ("x.parquet", b"PAR1" + b"x" * 50 + b"PAR1", "is no whole Parquet file"),
        ("x.txt", b"\x89PNG\r\n", "is not UTF-8 text .byte 0x89 at 0."),
        ("x.txt", b"a\0b", "is binary, not text"),
        ("x.tsv", "a\t1\nb\n", "record 2 has 1 fields, record 1 has 2"),
        ("x.csv", "a,1\n\nb,c,0\n", "record 2 has 3 fields, record 1 has 2"),
        ("x.csv", 'a,1\n"b,0\n', "its quotes do not match"),
        ("x.csv", "a; b,1\nc; d,0\n", "commas and semicolons both divide the lines of .* evenly"),
        ("x.csv", "sentence\tlabel\na\t1\nb\t0\n", r"but '\\t' in each line; write tabs in a .tsv"),
        ("x.csv", "sentence|label\na|1\nb|0\n", "but '|' in each line"),
        ("x.tsv", "sentence;label\na;1\nb;0\n", "has no tabs between its fields, but ';' in each"),
        ("x.tsv", "label,sentence\n1,a\n0,b\n", "but ',' in each line"),
        ("x.csv", "a\xff".encode("latin-1"), "is not UTF-8 text"),
        ("x.csv", "a,1\n".encode("utf-16"), "is not UTF-8 text"),
        ("x.tsv", "a\tb\tc\t1\n", "has 4 columns and no header"),
        ("x.tsv", "a\ta\nb\tc\n", "a header with a name twice"),
    ],
)
def test_files_that_are_not_what_they_say_are_refused(tmp_path, name, content, message):
    with pytest.raises(FileFormatError, match=message) as caught:
        read_file(write(tmp_path, name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", "", "has no rows"),
        ("x.txt", "\n \n", "has no rows"),
        ("x.csv", "sentence,label\n", "has no rows"),
        ("x.json", "[]", "has no rows"),
        ("x.xlsx", "x", "its ending is none of .csv, .json"),
    ],
)
def test_empty_or_unknown_files_are_refused(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_file(write(tmp_path, name, content))


def test_unknown_columns_and_missing_cells_are_named(tmp_path):
    rows = read_file(write(tmp_path, "x.jsonl", '{"a": "x", "n": 1}\n{"n": 2}\n'))
    with pytest.raises(UnknownNameError, match=r"column 'aa' is not known; did you mean 'a'"):
        rows.values("aa")
    with pytest.raises(DataError, match=r"row 1 of .*x.jsonl' .* 'a', which is missing; .*1 of 2"):
        rows.values("a")
    with pytest.raises(DataError, match=r"row 0 of .* has 1 as 'n', which is not text"):
        rows.texts("n")


@pytest.mark.parametrize("blank", ["", "  "])
def test_blank_texts_are_refused_where_they_have_a_label(tmp_path, blank):
    rows = read_file(write(tmp_path, "x.tsv", f"sentence\tlabel\nfine\t1\n{blank}\t0\nbad\t0\n"))
    with pytest.raises(DataError, match=r"row 1 of '.*x.tsv' .* which is blank; .*1 of 3"):
        rows.texts("sentence", blank=False)
    assert rows.texts("sentence") == ["fine", blank, "bad"]


@pytest.mark.parametrize("name", ["x.tsv", "x.csv"])
def test_quoted_texts_may_hold_line_ends_and_be_long(tmp_path, name):
    texts = ["one\nand two", "x " * 100_000, "three"]
    mark = "\t" if name == "x.tsv" else ","
    frame = pd.DataFrame({"sentence": texts, "label": [0, 1, 0]})
    frame.to_csv(tmp_path / name, sep=mark, index=False)
    assert read_file(tmp_path / name).texts("sentence") == texts


def test_one_column_of_texts_with_marks_in_them_stays_one_column(tmp_path):
    texts = ["one, two", "red; green | blue", "a b"]
    for name in ("x.txt", "x.tsv"):
        rows = read_file(write(tmp_path, name, "\n".join(["text", *texts])))
        assert rows.texts("text")[-3:] == texts


def test_slices_are_split_from_paths(tmp_path):
    assert split_slice("a.tsv[0:800]") == ("a.tsv", slice(0, 800))
    assert split_slice("a.tsv[-5:]") == ("a.tsv", slice(-5, None))
    assert split_slice("a.tsv") == ("a.tsv", None)
    odd = write(tmp_path, "b[0:1]", "x")
    assert split_slice(str(odd)) == (str(odd), None)
