"""Names without paths, HTML without holes, head maps, and a repr that fits on a screen."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from torch import nn

from deadhead.display import WIDTH, Brief, brief, short_name, short_names
from deadhead.display.html import grid_text, head_map_html, table_html, tag

NASTY = "<script>\"'&</td>"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/home/me/models/tiny", "tiny"),
        (r"C:\models\tiny.txt", "tiny.txt"),
        ("~/data/dev.tsv[0:800]", "dev.tsv[0:800]"),
        ("file:/a/b.json", "file:b.json"),
        ("someone/tiny: greedy taylor", "tiny: greedy taylor"),
        ("runs/a/", "a"),
        ("taylor + least_squares", "taylor + least_squares"),
        ("before / after", "before / after"),
        ("../x.csv, ./y.csv", "x.csv, y.csv"),
    ],
)
def test_paths_are_reduced_to_their_last_part(name, short):
    assert short_name(name) == short


def test_names_that_become_equal_stay_apart():
    names = ["a/dev.tsv", "b/dev.tsv", "dev.tsv (2)", "c/dev.tsv", "a/dev.tsv"]
    short = short_names(names)
    assert list(short) == list(dict.fromkeys(names))
    assert len(set(short.values())) == len(short)
    assert not any("/" in name for name in short.values())


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def test_text_is_escaped_wherever_it_stands():
    page = tag("p", NASTY, tag("b", NASTY), aria_label=NASTY) + table_html([NASTY], [[NASTY]])
    page += head_map_html([[True]], caption=NASTY)
    assert "script" not in Tags(page).tags
    assert "<script" not in page


def test_the_head_map_has_a_cell_per_head_and_a_cross_per_removed_head():
    kept = [[True, False, True], [False]]
    scores = [[1.0, float("nan"), -np.inf], [2.0]]
    for page in (head_map_html(kept, scores), head_map_html(kept)):
        assert page.count("<rect") == 4
        assert page.count("<path") == page.count(", removed</title>") == 2
    assert head_map_html(None, scores).count("<path") == 0
    assert "head 0.1" in head_map_html(kept)
    assert grid_text(kept) == "block 0  #.#  2 of 3\nblock 1  .  0 of 1"
    head_map_html([])


@dataclass(repr=False)
class Holder(Brief):
    items: Any
    _hidden: int = 3
    more: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    "value",
    [
        tuple(range(10**6)),
        ["x" * 1000] * 3,
        np.zeros((1000, 1000)),
        nn.Sequential(*[nn.Linear(2, 2) for _ in range(50)]),
        {f"key {i}": {"nested": list(range(99))} for i in range(99)},
        "a\n" * 999,
        Holder([Holder("y" * 500)] * 50),
        None,
        np.float64(2.5),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_repr_fits_on_a_screen(value):
    assert "\n" not in brief(value)
    assert len(brief(value)) <= WIDTH
    lines = repr(Holder(value, more={"k": value})).splitlines()
    assert len(lines) <= 5
    assert max(map(len, lines)) <= 100
    assert "_hidden" not in "".join(lines)
