"""What the fuzz tests found once: each is refused in a line that says what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deadhead import HeadModel, Recipe, load_model, open_task, score
from deadhead.errors import ArgumentError, DataError, DeadheadError, FileFormatError
from deadhead.interop import read_importance
from deadhead.pruning.trajectory import Step, Trajectory

ARGUMENTS = [
    ({"batch_size": "two"}, "batch_size cannot be 'two'; give int | None"),
    ({"calibration_size": [4]}, r"calibration_size cannot be \[4\]; give int | None"),
    ({"seed": -0.0}, "seed cannot be -0.0; give int"),
    ({"max_length": {}}, "max_length cannot be {}; give int | None"),
    ({"text_column": 3}, "text_column cannot be 3; give str | None"),
    (
        {"batchsize": 3},
        "argument of open_task: 'batchsize' is not known; did you mean 'batch_size'",
    ),
    ({"spec": "x" * 5000}, "is not a path .File name too long"),
]


@pytest.mark.parametrize(("odd", "said"), ARGUMENTS, ids=str)
def test_odd_arguments_of_open_task(here, odd, said):
    good = {"spec": "rows.jsonl", "tokenizer": here.tokenizer, "config": here.model.config}
    with pytest.raises(DeadheadError, match=said):
        open_task(**{**good, **odd})


@pytest.mark.parametrize("odd", [{"source": None}, {"source": "model", "device": {}}])
def test_odd_arguments_of_load_model(here, odd):
    with pytest.raises(ArgumentError, match="cannot be"):
        load_model(**odd)


@pytest.mark.parametrize(
    "odd", [{"patience": {}}, {"seed": "x"}, {"heads": []}, {"inverse": 1}, {"criterion": 3}]
)
def test_odd_fields_of_a_recipe(odd):
    with pytest.raises(ArgumentError, match=f"{next(iter(odd))} cannot be"):
        Recipe(**odd)


def test_an_amount_may_be_text_in_a_recipe_too():
    assert Recipe(heads="50%").heads == 0.5
    assert Recipe(heads="36").heads == 36


@pytest.mark.parametrize("odd", [{"loss": ["task"]}, {"criterion": {}}, {"seed": None}])
def test_odd_arguments_of_score(here, odd):
    with pytest.raises(ArgumentError, match="cannot be"):
        score(HeadModel(here.model), None, **{"criterion": "magnitude", **odd})


@pytest.mark.parametrize("length", [[], {}, "x", float("nan")])
def test_a_tokenizer_whose_length_is_no_number(here, command, length):
    here.copy("model", "odd")
    config = here.json("model/tokenizer_config.json")
    here.write("odd/tokenizer_config.json", json.dumps({**config, "model_max_length": length}))
    code, said = command("score", "odd", "-c", "output_norm", "-t", "rows.jsonl")
    assert code == 2
    assert "model_max_length" in said


def test_a_tokenizer_that_fails_in_its_own_words(here, monkeypatch):
    class Failing(type(here.tokenizer)):
        def __call__(self, *args, **options):
            raise OverflowError("can't convert negative int to unsigned")

    broken = here.copy("model", "odd")
    tokenizer = load_model(str(broken)).tokenizer
    tokenizer.__class__ = Failing
    with pytest.raises(DataError, match=r"the tokenizer fails on the texts .can't convert"):
        open_task("rows.jsonl", tokenizer, config=here.model.config).calibration.batches()


def test_an_array_file_whose_header_ends_early(here):
    np.save(here.folder / "odd.npy", np.zeros((2, 4)))
    content = (here.folder / "odd.npy").read_bytes().replace(b"}", b"(")
    with pytest.raises(FileFormatError, match=r"is not \.npy with a table of numbers"):
        read_importance(here.write("odd.npy", content), counts=[4, 4])


@pytest.mark.parametrize("data", [None, [], {}, {"mask": [[1]]}, {"mask": 3, "dropped": []}])
def test_what_is_no_step_or_trajectory(data):
    for kind in (Step, Trajectory):
        with pytest.raises(DeadheadError, match=r"this is not|is not a mask"):
            kind.from_json(data)


NAMES = ["m\x1b[31m", "a\nb", "\u202em", "~nobody-here/m", "x" * 5000, "\x9bm"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_no_terminal_should_show(here, command, name):
    for args in (
        ("score", name),
        ("score", "model", "-c", name),
        ("score", "model", "-t", name, "-c", "taylor"),
        ("apply", "model", "-p", name),
        ("score", "model", "-c", "magnitude", f"--{name}"),
        (name,),
    ):
        assert command(*args)[0] == 2
