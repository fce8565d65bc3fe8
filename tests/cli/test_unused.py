"""An option that would change nothing is refused in one line, before anything is loaded."""

from __future__ import annotations

import pytest

from deadhead.runs.settings import ModelSettings

MODEL = "bundled:decoder"
DATA = ("-t", "bundled:agreement")
CLUSTERS = ("--strategy", "clusters")
BLIND = (*CLUSTERS, "--grouping", "random", "--representative", "random")
BUDGET = ("--grouping", "importance_budget")
PROMPTS = [("-n", "5"), ("--prompt-column", "text")]
OF_CLUSTERS = [
    ("--grouping", "balanced"),  # as by default, and typed
    ("--distance", "cosine"),
    ("--representative", "random"),
    ("--unit", "kv"),
    ("--ward-on", "raw"),
    ("--include-padding",),
    ("--first-token", "drop"),
    ("--importance", "t.npy"),
    ("--slope", "source"),
    ("--prompts", "p.txt"),
    *PROMPTS,
]
NO_PROMPTS = "it is for --prompts; leave it out"
NO_STRATEGY = "it is for "
NO_GROUPS = "it is for "
NO_BUDGET = "it is for --grouping importance_budget; leave it out"
NO_SCORES = "it is for choices that look at scores"
NO_PLAN = "it is for --plan; leave it out"
NO_LM_EVAL = "it is for --lm-eval; leave it out"
NO_DATA = "it is for data that judge (--task); leave it out"

REFUSED = [
    *(((c, *CLUSTERS), o, NO_PROMPTS) for c in ("prune", "plan") for o in PROMPTS),
    *((("sweep",), o, NO_PROMPTS) for o in (*PROMPTS, ("--strict",))),
    *(((c, "-s", "one_shot"), o, NO_STRATEGY) for c in ("prune", "plan") for o in OF_CLUSTERS),
    *(
        ((c, *CLUSTERS), ("--per-step", "2"), "in several moves; leave it out")
        for c in ("prune", "plan")
    ),
    *(((c, *CLUSTERS), ("--importance", "t.npy"), NO_BUDGET) for c in ("prune", "plan")),
    (("sweep", "--grouping", "balanced"), ("--importance", "t.npy"), NO_BUDGET),
    *((("sweep", "--grouping", "none"), o, NO_GROUPS) for o in OF_CLUSTERS[1:]),
    (("plan", *BLIND), ("--prompts", "p.txt"), "groupings that compare heads; leave it out"),
    (("plan", *CLUSTERS), ("--scores", "s.json"), NO_SCORES),
    (("plan", *CLUSTERS), ("-c", "taylor"), NO_SCORES),
    (("prune", *CLUSTERS), ("--loss", "task"), NO_SCORES),
    (
        ("plan", *CLUSTERS, *BUDGET, "--importance", "t.npy"),
        ("--scores", "s.json"),
        NO_SCORES,
    ),
    (("similarity",), ("--important", "25%"), "it is for --importance; leave it out"),
    *((("evaluate",), o, NO_PLAN) for o in (("--action", "fold"), ("--slope", "source"))),
    (("evaluate",), ("--gqa", "ungroup"), NO_PLAN),
    *((("evaluate",), o, NO_LM_EVAL) for o in (("--limit", "3"), ("--num-fewshot", "1"))),
    (("evaluate",), ("--lm-eval-output", "x.json"), NO_LM_EVAL),
    *((("sweep",), o, NO_LM_EVAL) for o in (("--limit", "3"), ("--include-path", "x"))),
    *(
        (("evaluate", "--lm-eval", "x"), o, NO_DATA)
        for o in (("--test-size", "8"), ("--kind", "x"))
    ),
]


@pytest.fixture
def unloaded(deadhead, monkeypatch):
    monkeypatch.setattr(ModelSettings, "load", lambda self: pytest.fail("loaded"))
    return deadhead


@pytest.mark.parametrize(
    ("command", "option", "said"), REFUSED, ids=[" ".join((*c, *o)) for c, o, _ in REFUSED]
)
@pytest.mark.slow
def test_an_option_that_does_nothing_is_refused(unloaded, tmp_path, command, option, said):
    name, *options = command
    data = () if name == "similarity" or said == NO_DATA else DATA
    line = unloaded(name, MODEL, *data, *options, *option).refused()
    flag = {"-n": "--n-prompts", "-c": "--criterion"}.get(option[0], option[0])
    assert line.startswith(f"error: {flag} does nothing here: "), line
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_said_before_an_unused_option(unloaded):
    line = unloaded("plan", MODEL, *DATA, "-s", "clustes", "--prompts", "p.txt").refused()
    assert "did you mean 'clusters'" in line


def test_what_is_looked_at_is_not_refused(deadhead, tmp_path):
    (tmp_path / "p.txt").write_text("the dogs run .\nthe cat sees a bird .\n")
    (tmp_path / "t.csv").write_text("1,2,3,4\n" * 4)
    prompts = ("--prompts", "p.txt", "-n", "2", "--prompt-column", "text", "--strict")
    table = (*BUDGET, "--importance", "t.csv")
    found = deadhead("plan", MODEL, *CLUSTERS, *prompts, *table, "--slope", "source", "--json")
    assert found.code == 0, found.err
    sizes = ("--calibration-size", "8", "--heads", "25%")
    found = deadhead("plan", MODEL, *DATA, *sizes, *CLUSTERS, *BUDGET, "-c", "taylor", "--json")
    assert found.code == 0, found.err
    assert found.json["provenance"]["criterion"] == "taylor"
