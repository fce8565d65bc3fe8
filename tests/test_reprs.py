"""What Python prints of a public object fits on a screen; notebooks show a map of the heads."""

from dataclasses import fields, is_dataclass

import pytest

import deadhead
from deadhead import HeadModel, Recipe, explain, load_model, open_task, prune
from deadhead.models.architectures import records_named
from deadhead.report import RunSummary, score_table, step_table
from deadhead.runs.settings import DataSettings, ModelSettings
from deadhead.similarity import head_grams
from deadhead.similarity.distances import distances
from deadhead.studies.grid import Point, Reading, table_lines


@pytest.fixture(scope="module")
def objects():
    loaded = load_model("bundled:encoder")
    view = HeadModel(loaded.model)
    sizes = {"calibration_size": 16, "test_size": 16}
    tasks = open_task("bundled:sentiment", loaded.tokenizer, config=loaded.model.config, **sizes)
    result = prune(view, tasks, Recipe(heads=0.5))
    batches = tasks.calibration.batches()
    grams = head_grams(view, batches)
    summary = RunSummary("run", result.trajectory, result.scores, result.plan)
    point = Point("m" * 200, "mask", 0.5, 1, 0.5, readings={"j" * 300: Reading("x", 1.0)})
    return [
        *(getattr(deadhead, name) for name in deadhead.__all__),
        loaded,
        view,
        tasks,
        result,
        summary,
        tasks.test.evaluate(loaded.model),
        explain(view, batches, result.plan, result.trajectory, samples=0),
        grams,
        distances(grams, "cosine"),
        records_named("bert")[0],
        ModelSettings("x" * 300),
        DataSettings(spec="y" * 300),
        Recipe(criterion="taylor", heads=0.25),
        step_table(result.trajectory),
        score_table(result.scores),
        *table_lines([point, point]),
    ]


def parts(thing, seen):
    """Yield an object of ours and all that it holds."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    ours = type(thing).__module__.startswith("deadhead")
    if ours:
        yield thing
    if ours and is_dataclass(thing):
        for field in fields(thing):
            yield from parts(getattr(thing, field.name), seen)
    elif isinstance(thing, (list, tuple)):
        for item in thing[:3]:
            yield from parts(item, seen)
    elif isinstance(thing, dict):
        for item in list(thing.values())[:3]:
            yield from parts(item, seen)


@pytest.mark.slow
def test_every_repr_fits_on_a_screen(objects):
    found = [part for thing in objects for part in parts(thing, set())]
    assert len({type(part).__name__ for part in found}) > 25
    for part in found:
        lines = repr(part).splitlines()
        assert len(lines) <= 25, type(part)
        assert max(map(len, lines)) <= 100, repr(part)


def test_a_repr_says_what_differs_from_the_defaults():
    assert repr(Recipe(criterion="taylor")) == "Recipe(criterion='taylor')"


@pytest.mark.parametrize("name", ["plan", "scores", "trajectory", "result", "mask"])
def test_notebooks_show_the_heads(objects, name):
    (result,) = (thing for thing in objects if type(thing).__name__ == "Pruning")
    shown = {"result": result, "mask": result.plan.mask}.get(name) or getattr(result, name)
    page = shown._repr_html_()
    assert page.count("<rect") == 24
    assert page.count("<path") == (0 if name == "scores" else 12)
    assert "<figcaption>" in page
