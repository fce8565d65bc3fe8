import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from deadhead.report import outcome, write_report
from deadhead.report.page import Page as Layout
from deadhead.report.run_page import run_page

NASTY = "<script>alert('x')</script>&\"--><img src=http://x onerror=1>"
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and ids, and checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.open = set(), [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self._attributes(attrs)

    def _attributes(self, attrs):
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(full, tmp_path_factory):
    return write_report(full, tmp_path_factory.mktemp("page")).read_text(encoding="utf-8")


def test_page_needs_nothing_else(page):
    parsed = Page(page)
    assert parsed.open == []
    assert not parsed.tags & {"script", "link", "iframe", "img", "object", "base"}
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in parsed.links)
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_ids_are_unique_and_every_reference_has_a_target(page):
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    wanted = {link[1:] for link in parsed.links if link[0] == "#"}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert wanted
    assert wanted <= set(parsed.ids)


def test_page_says_the_outcome_and_every_step(full, page):
    assert outcome(full) in page
    for text in ("0.650", "512", "aaa1", "bbb2", "deadhead prune tiny --task sst2 -o out"):
        assert text in page
    steps = page[page.index("Every step") :]
    assert steps[: steps.index("</table>")].count("<tr>") == 1 + 1 + len(full.trajectory)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_a_curve_on_selection_says_so_and_is_drawn_alone(full, page, tmp_path):
    run = replace(full, run={**full.run, "evaluated_on": "selection"})
    text = write_report(run, tmp_path).read_text(encoding="utf-8")
    assert "measured on selection" in text
    assert "The random baseline was measured on test" in text
    assert "measured on test" in page
    for gid in ("random", "chosen"):
        assert f'id="curve-{gid}"' in page
        assert f'id="curve-{gid}"' not in text


def test_tiles_count_from_the_model_as_it_was_given(full):
    start = replace(full.trajectory.start, mask=full.trajectory.steps[2].mask)
    steps = full.trajectory.steps[3:]
    run = replace(full, trajectory=replace(full.trajectory, start=start, steps=steps))
    name, value, note = run_page(run).tiles[0]
    assert (name, value) == ("heads", "6 → 5")
    assert note.startswith("removed (17%)")


@pytest.mark.slow
def test_figures_are_written_beside_the_page_and_nothing_else(full, tmp_path):
    write_report(full, tmp_path)
    write_report(full, tmp_path)  # again, over what is there
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    names = [f"figures/{n}.{kind}" for n in ("curve", "head_map") for kind in ("png", "svg")]
    assert written == [*names, "report.html"]


def test_everything_a_run_brings_along_is_escaped(full, tmp_path):
    data = {NASTY: {"fingerprint": NASTY, NASTY: NASTY}}
    nasty = replace(
        full,
        title=NASTY,
        trajectory=replace(full.trajectory, metric=NASTY),
        scores=replace(full.scores, criterion=NASTY),
        plan=replace(full.plan, provenance={"strategy": NASTY}),
        model={"name": NASTY, "model_type": NASTY},
        speed=[replace(full.speed[0], device=NASTY, setting=NASTY)],
        evaluation={"dense": {NASTY: 0.9}, "pruned": {NASTY: 0.7}},
        run={"command": NASTY, "versions": {NASTY: NASTY}, "data": data, "date": NASTY},
    )
    text = write_report(nasty, tmp_path).read_text(encoding="utf-8")
    parsed = Page(text)
    assert "<script" not in text
    assert not parsed.tags & {"script", "img"}
    assert "&lt;script&gt;" in text


def test_a_partly_filled_summary_renders(bare, tmp_path):
    text = write_report(bare, tmp_path).read_text(encoding="utf-8")
    assert Page(text).open == []
    for said in ("Speed was not measured", "No random baseline", "No interval", "not recorded"):
        assert said in text
    assert not re.search(r"\bnan\b|None|Undefined", text)


def test_without_matplotlib_the_page_is_written_and_says_so(full, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = write_report(full, tmp_path).read_text(encoding="utf-8")
    assert "deadhead[plot]" in text
    assert "<svg" not in text
    assert "block 0  ....  0 of 4" in text


def test_an_older_report_survives_a_failure(full, tmp_path, monkeypatch):
    monkeypatch.setattr(Layout, "_write_figures", lambda *_: {})
    path = write_report(full, tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(Layout, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        write_report(full, tmp_path)
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_without_scores_says_so(full, tmp_path):
    plan = replace(full.plan, provenance={"strategy": "clusters"})
    page = write_report(replace(full, scores=None, plan=plan), tmp_path).read_text("utf-8")
    Page(page)
    assert "No scores were used for the choice." in page
    assert "None" not in page
    assert "criterion" not in re.sub("<svg.*?</svg>", "", page, flags=re.DOTALL)
