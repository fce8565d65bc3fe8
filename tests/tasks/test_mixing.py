"""Calibration texts of several sources, mixed by weight."""

from __future__ import annotations

import json

import pytest

import deadhead
from deadhead.data.examples import Examples
from deadhead.errors import DataError
from deadhead.tasks.mixing import Source, mixed, sources_of


def texts(name: str, n: int) -> Examples:
    return Examples([(f"{name} {i}",) for i in range(n)])


def written(tmp_path, name: str, n: int, **columns):
    file = tmp_path / f"{name}.jsonl"
    rows = ({"sentence": f"the film of {name} is {i}", **columns} for i in range(n))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def loaded():
    return deadhead.load_model("bundled:encoder")


def opened(loaded, **given):
    task = {"config": loaded.model.config, "test_size": 16, **given}
    return deadhead.open_task("bundled:sentiment", loaded.tokenizer, **task)


def test_a_weight_stands_behind_a_name_unless_a_file_is_called_so(tmp_path):
    assert sources_of("a.txt") == [Source("a.txt")]
    assert sources_of(["a.txt[0:80]", "b=c.txt=.25"]) == [
        Source("a.txt[0:80]"),
        Source("b=c.txt", 0.25),
    ]
    assert sources_of(None) == sources_of(()) == []
    file = tmp_path / "a=0.5"
    file.write_text("text")
    assert sources_of(file) == [Source(str(file))]


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "half"])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(DataError, match=f"'{weight}' is no weight; write FILE=0.25, above 0"):
        sources_of([f"a.txt={weight}"])


def test_sources_share_the_examples_by_weight_and_keep_it_without_a_size():
    parts, sources = [texts("a", 100), texts("b", 40)], [Source("a", 3), Source("b")]
    drawn, said = mixed(parts, sources, 64, (0, 0))
    assert sum(text[0].startswith("a") for text in drawn.texts) == 48
    assert len(drawn) == len(set(drawn.texts)) == 64
    assert not said
    assert {t[0][0] for t in drawn.texts[3::4]} == {"a", "b"}, "what fits hold out has both"
    assert mixed(parts, sources, 64, (0, 0))[0].texts == drawn.texts
    assert mixed(parts, sources, 64, (1, 0))[0].texts != drawn.texts
    whole, _ = mixed(parts, sources, None, (0, 0))
    assert sum(text[0].startswith("a") for text in whole.texts) == 100
    assert len(whole) == 133
    _, said = mixed(parts, sources, 400, (0, 0))
    assert said[1] == (
        "'b' has 40 examples, fewer than the 100 that its weight asks for: it counts less"
    )


def test_a_task_calibrates_on_both_and_says_so(loaded, tmp_path):
    files = [written(tmp_path, name, 40) for name in "ab"]
    given = [str(files[0]), f"{files[1]}=0.25"]
    tasks = opened(loaded, calibration=given, calibration_size=40)
    seen = [text for (text,) in tasks.calibration.examples.texts]
    assert sum(" of b " in text for text in seen) == 8
    assert len(seen) == 40
    assert tasks.calibration.name == f"{files[0]} and {files[1]}"
    assert tasks.training.size == 50, "what distill trains on has the same weights"
    alone = deadhead.tasks.open_calibration(
        given, loaded.tokenizer, config=loaded.model.config, calibration_size=40
    )
    assert alone.fingerprint == tasks.calibration.fingerprint
    other = opened(loaded, calibration=given, calibration_size=40, seed=1)
    assert other.calibration.fingerprint != tasks.calibration.fingerprint


def test_what_the_test_set_has_is_left_out_of_every_source(loaded, tmp_path):
    first, second = (written(tmp_path, name, 400) for name in "ab")
    test = written(tmp_path, "b", 2, label=1)
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    test = tmp_path / "test.jsonl"
    more = [{"sentence": f"a bad film {i}", "label": 0} for i in range(300)]
    test.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    second = written(tmp_path, "b", 400)
    tasks = deadhead.open_task(
        None,
        loaded.tokenizer,
        config=loaded.model.config,
        calibration=[first, second],
        test=test,
        calibration_size=None,
    )
    seen = [text for (text,) in tasks.calibration.examples.texts]
    assert len(seen) == 796, "as many as keep the weights"
    assert not any(text.endswith(("of b is 0", "of b is 1")) for text in seen)
    assert any("removed 2 of 400 examples from calibration" in note for note in tasks.notes)
