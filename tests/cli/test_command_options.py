"""Commands made from settings: one field is one option, with its default, its reader, its place."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from dataclasses import field

import pytest
import typer
from typer.testing import CliRunner

from deadhead.cli import command
from deadhead.cli.options import command_of
from deadhead.options.fields import option, option_facts, part, settings
from deadhead.options.settings import PANELS, seed_option
from deadhead.options.values import Action, parse_amount
from deadhead.pruning.recipe import Recipe
from deadhead.runs.run_settings import LmEvalSettings, RunSettings, SimilaritySettings
from deadhead.runs.settings import DataSettings, ModelSettings, PromptSettings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@settings
class Inner:
    """Settings within others."""

    name: str = option(help="A name.", flags=("--name",), kw_only=False)
    seed: int = seed_option()


@settings
class Outer:
    """What a command takes."""

    model: str = option(help="A model.", metavar="MODEL", kw_only=False)
    inner: Inner | None = part(default=None)
    heads: int | float = option(default=0.5, help="Heads.", parse=parse_amount, shown="50%")
    action: Action = option(default="remove", help="What to do.", group="plan")
    many: tuple[str, ...] = option(default=(), help="Several.")
    plain: bool = option(default=False, help="A flag.")
    seed: int = seed_option()
    unlisted: int = 3
    command: str = field(default="", compare=False)

    def idle(self):
        return {"plan"} if self.plain else set()


def run(*typed, monkeypatch):
    made = []

    def taken(asked: Outer) -> None:
        """Take settings."""
        made.append(asked)

    app = typer.Typer()
    app.command()(command_of(taken))
    monkeypatch.setattr(sys, "argv", ["deadhead", *typed])
    result = CliRunner().invoke(app, list(typed))
    return made[0] if made else result


def test_defaults_are_those_of_the_fields(monkeypatch):
    assert run("m", monkeypatch=monkeypatch) == Outer("m")


def test_every_field_is_read_by_its_own_reader(monkeypatch):
    typed = ("m", "--heads", "25%", "--many", "a", "--many", "b", "--name", "x", "--seed", "7")
    made = run(*typed, "--plain", monkeypatch=monkeypatch)
    expected = Outer("m", inner=Inner("x", seed=7), heads=0.25, many=("a", "b"), plain=True, seed=7)
    assert made == expected
    assert made.command == "deadhead m --heads 25% --many a --many b --name x --seed 7 --plain"


def test_an_option_that_does_nothing_is_refused_if_it_is_typed(monkeypatch):
    result = run("m", "--plain", "--action", "remove", monkeypatch=monkeypatch)
    assert result.exit_code == 2
    assert "--action does nothing here" in result.output


def test_a_new_field_is_a_new_option(monkeypatch):
    more = dataclasses.make_dataclass(
        "More", [("new", int, option(default=1, help="New."))], bases=(Outer,), frozen=True
    )

    def taken(asked) -> None:
        """Take settings."""

    taken.__annotations__ = {"asked": more, "return": None}
    assert "new" in inspect.signature(command_of(taken)).parameters
    assert dataclasses.asdict(more("m"))["new"] == 1


KINDS = (
    *(ModelSettings, DataSettings, PromptSettings, Recipe, RunSettings, LmEvalSettings),
    SimilaritySettings,
)


@pytest.mark.parametrize("kind", KINDS)
def test_options_have_a_sentence_and_a_panel_of_the_list(kind):
    for each in dataclasses.fields(kind):
        facts = option_facts(each)
        if facts is not None and facts.help:
            assert facts.help.endswith((".", ").")), each.name
            assert facts.panel in (None, *PANELS), each.name


FIRST = {"prune": ["task", "calibration", "heads", "repair", "output"]}


@pytest.mark.parametrize("name", FIRST)
def test_a_newcomer_sees_five_options_first(name):
    (found,) = [c for c in command().registered_commands if c.name == name]
    parameters = inspect.signature(found.callback).parameters.values()
    first = [
        p.name
        for p in parameters
        if p.annotation is not typer.Context
        and getattr(p.annotation.__metadata__[0], "rich_help_panel", "") is None
        and isinstance(p.annotation.__metadata__[0], typer.models.OptionInfo)
    ]
    assert first == FIRST[name]


def test_every_usage_error_is_one_line(deadhead):
    for typed, said in (
        (("prune",), "Missing argument 'MODEL'"),
        (("prune", "m", "--patience", "x"), "Invalid value for '--patience'"),
        (("prune", "m", "--nothing"), "No such option: --nothing"),
        (("prnue",), "No such command 'prnue'"),
    ):
        line = deadhead(*typed).refused()
        assert said in line
        assert re.search("; 'deadhead( prune)? --help' lists what there is", line)


HELP = """
import sys, time
sys.argv = ["deadhead", *{typed}]
from deadhead_command import main
try:
    main()
except SystemExit:
    pass
heavy = {{"torch", "transformers", "datasets", "scipy"}} & set(sys.modules)
assert not heavy, heavy
assert time.process_time() < 1, time.process_time()
"""


@pytest.mark.parametrize(
    "typed", [["--help"], ["prune", "--help"], ["compare", "-h"], ["--version"]]
)
@pytest.mark.slow
def test_help_takes_less_than_a_second_and_imports_nothing_heavy(typed):
    code = HELP.format(typed=typed)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
