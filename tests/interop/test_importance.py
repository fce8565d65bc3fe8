from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deadhead.errors import DataError, FileFormatError, HeadError, ScoreError, UnknownNameError
from deadhead.interop import importance, read_importance, split_key
from deadhead.types import Head, HeadScores

TABLE = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, np.nan]])
COUNTS = (3, 3)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def rows(table=TABLE):
    return [[None if np.isnan(x) else x for x in row] for row in table.tolist()]


def long_form(path):
    lines = [f"x,{i},{b},{TABLE[b, i]}" for b in (1, 0) for i in range(3) if (b, i) != (1, 2)]
    write(path, "\n".join(["note,Head,block,score", *lines]))


WRITERS = {
    "a.npy": lambda path: np.save(path, TABLE),
    "f16.npy": lambda path: np.save(path, np.asfortranarray(TABLE.astype(np.float16))),
    "a.csv": lambda path: np.savetxt(path, TABLE, delimiter=","),
    "blank.csv": lambda path: write(path, "0.5,-1,2\n3,.25,\n"),
    "long.csv": long_form,
    "a.json": lambda path: write(path, json.dumps(rows())),
    "nan.json": lambda path: write(path, json.dumps(TABLE.tolist())),
    "scores.json": lambda path: write(
        path, json.dumps({"taylor": HeadScores(tuple(TABLE), "taylor").to_json()})
    ),
    "one.json": lambda path: write(path, json.dumps(HeadScores(tuple(TABLE), "x").to_json())),
    "a.safetensors": lambda path: save_file(
        {"bias": torch.ones(3), "table": torch.tensor(TABLE)}, path
    ),
    "a.pkl": lambda path: write(path, pickle.dumps(torch.tensor(TABLE))),
    "bf16.pickle": lambda path: write(path, pickle.dumps(torch.tensor(TABLE).bfloat16())),
    "numpy.pkl": lambda path: write(path, pickle.dumps(TABLE)),
    "list.pkl": lambda path: write(path, pickle.dumps([list(TABLE[0]), torch.tensor(TABLE[1])])),
    "a.PT": lambda path: torch.save(torch.tensor(TABLE, requires_grad=True), path),
    "a.bin": lambda path: torch.save({"only": torch.tensor(TABLE)}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_scores(tmp_path, name):
    WRITERS[name](tmp_path / name)
    scores = read_importance(tmp_path / name, counts=COUNTS)
    assert np.array_equal(np.stack(scores.values), TABLE, equal_nan=True)
    assert scores.values[0].dtype == np.float64
    assert scores.criterion == f"file:{name}"
    assert scores.provenance["file"] == name
    assert scores.ranking()[0] == Head(0, 1)  # lowest = least important


def test_one_of_several_tables_is_named_by_its_key(tmp_path):
    both = {c: {"criterion": c, "values": (TABLE + i).tolist()} for i, c in enumerate("ab")}
    write(tmp_path / "s.json", json.dumps(both))
    torch.save({"a": torch.tensor(TABLE), "b": torch.tensor(TABLE + 1)}, tmp_path / "s.pt")
    for name in ("s.json", "s.pt"):
        scores = read_importance(tmp_path / name, counts=COUNTS, key="b")
        assert scores[Head(0, 0)] == 1.5
        assert (scores.criterion, scores.provenance["key"]) == (f"file:{name}:b", "b")
        with pytest.raises(DataError, match=r"holds 2 tables .*a, b.*; name one by its key"):
            read_importance(tmp_path / name, counts=COUNTS)
        with pytest.raises(UnknownNameError, match="'bb' is not known; did you mean 'b'"):
            read_importance(tmp_path / name, counts=COUNTS, key="bb")
    np.save(tmp_path / "a.npy", TABLE)
    with pytest.raises(DataError, match="holds one table without a name"):
        read_importance(tmp_path / "a.npy", counts=COUNTS, key="b")


def test_blocks_may_differ_in_their_heads(tmp_path):
    write(tmp_path / "r.json", "[[1, 2, 3], [4]]")
    write(tmp_path / "r.csv", "1,2,3\n4\n")
    for name in ("r.json", "r.csv"):
        assert read_importance(tmp_path / name, counts=(3, 1)).counts == (3, 1)
        with pytest.raises(HeadError, match=r"has blocks of \[3, 1\] heads, the model has 2"):
            read_importance(tmp_path / name, counts=COUNTS)


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        (TABLE.T, HeadError, "has 3 blocks of 2 heads, the model has 2 blocks of 3 heads"),
        (TABLE[0], HeadError, r"has shape \(3,\), the model has 2 blocks of 3"),
        (TABLE[None], HeadError, r"has shape \(1, 2, 3\)"),
        (TABLE * np.nan, ScoreError, "scores no head: every value is NaN"),
        (np.where(TABLE == 2, np.inf, TABLE), ScoreError, "scores head 0.2 inf"),
        (TABLE > 0, FileFormatError, "no table of real numbers .*bool values"),
        (TABLE * 1j, FileFormatError, "no table of real numbers .complex128|array of 'c16'"),
        (TABLE.astype(str), FileFormatError, "no table of real numbers|array of 'U"),
        (TABLE[:0], FileFormatError, "holds no rows"),
    ],
)
@pytest.mark.parametrize("name", ["a.npy", "a.pkl"])
def test_tables_that_are_no_scores_of_the_model_are_refused(tmp_path, name, table, kind, message):
    if name == "a.npy":
        np.save(tmp_path / name, table)
    else:
        as_tensor = table.dtype.kind not in "cU"
        write(tmp_path / name, pickle.dumps(torch.tensor(table) if as_tensor else table))
    with pytest.raises(kind, match=message) as caught:
        read_importance(tmp_path / name, counts=COUNTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"", "is not .npy"),
        ("x.npy", b"\x93NUMPY\x01\x00\x76\x00{'descr': ", "is not .npy"),
        ("x.npy", b"PK\x03\x04garbage", "is not .npy"),
        ("x.csv", "", "holds no rows"),
        ("x.csv", "a,b\n1,2\n", "row 0 of .* has 'a', which is not a number"),
        ("x.csv", '1,"2\n', "is not CSV"),
        ("x.csv", b"\xff\xfe1", "is not UTF-8"),
        ("x.csv", "block,head,score\n0,0,1\n0,0,2\n", "row 2 of .* names block 0 head 0 again"),
        ("x.csv", "block,head,score\n0,0\n", "row 1 of .* has 2 fields"),
        ("x.csv", "block,head,score\n,0,1\n", "row 1 of .* has '', which is not a number"),
        ("x.csv", "block,head,score\n2,0,1\n", "names block 2 head 0 .* has 2 blocks of 3"),
        ("x.csv", "block,head,score\n0,.5,1\n", "names block 0 head 0.5"),
        ("x.json", "[1, 2", "is not JSON"),
        ("x.json", "[" * 100_000, "is not JSON"),
        ("x.json", "[]", "holds no rows"),
        ("x.json", "3", "it holds a int"),
        ("x.json", "[1, 2]", r"has shape \(\)"),
        ("x.json", "{}", "holds 0 tables"),
        ("x.json", '[[1, "a", 2], [1, 2, 3]]', "real numbers .*'a'"),
        ("x.json", "[[1, true, 2], [1, 2, 3]]", "real numbers .True"),
        ("x.json", '[[1, "inf", 2], [1, 2, 3]]', "scores head 0.1 inf"),
        ("x.json", f"[[1, {10**400}, 2], [1, 2, 3]]", "an integer has 401 digits"),
        ("x.safetensors", b"\x00" * 20, "is not safetensors"),
        ("x.pkl", b"garbage", "is damaged or no pickle"),
        ("x.pkl", pickle.dumps("text"), "it holds a str"),
        ("x.txt", "1", r"its ending is none of .bin, .csv, .json, .npy"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises((DataError, HeadError, ScoreError), match=message) as caught:
        read_importance(tmp_path / name, counts=COUNTS)
    assert "\n" not in str(caught.value)


def test_arrays_of_objects_and_missing_files_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([[{}]]), allow_pickle=True)
    with pytest.raises(FileFormatError, match="Object arrays cannot be loaded"):
        read_importance(tmp_path / "o.npy", counts=(1,))
    with pytest.raises(DataError, match="there is no file"):
        read_importance(tmp_path / "nowhere.npy", counts=(1,))


@pytest.mark.parametrize(
    ("spec", "file", "key"),
    [
        ("table.npy", "table.npy", None),
        ("scores.json:taylor", "scores.json", "taylor"),
        ("scores.json:random:seed=1", "scores.json", "random:seed=1"),
        ("runs/a:b/T.CSV:x", "runs/a:b/T.CSV", "x"),
        ("odd:taylor", "odd", "taylor"),  # a file that is there
        ("a:b.npy", "a:b.npy", None),  # likewise
        ("gradient_norm:reduction=batch", "gradient_norm:reduction=batch", None),
    ],
)
def test_a_file_and_its_key_are_told_apart(tmp_path, monkeypatch, spec, file, key):
    monkeypatch.chdir(tmp_path)
    for name in ("odd", "a:b.npy"):
        (tmp_path / name).touch()
    assert split_key(spec) == (Path(file), key)


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float32", "sparse"), ("qint8", "quantized"), ("float8_e4m3fn", "float8")]
)
@pytest.mark.filterwarnings("ignore")  # torch deprecates quantized tensors
def test_tensors_that_numpy_cannot_hold_are_refused(tmp_path, monkeypatch, dtype, kind):
    values = torch.tensor(TABLE).nan_to_num().float()
    table = {
        "sparse": lambda: values.to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
        "float8": lambda: values.to(torch.float8_e4m3fn),
    }[kind]()
    monkeypatch.setitem(importance.TABLES, ".bin", lambda content, name, counts: table)
    write(tmp_path / "a.bin", "")
    with pytest.raises(FileFormatError, match=f"no table of real numbers .*{dtype} values"):
        read_importance(tmp_path / "a.bin", counts=COUNTS)
