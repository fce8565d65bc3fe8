"""Options: choices agree with the registries, amounts are read, docstrings name every option."""

import dataclasses
import typing

import pytest

from deadhead.criteria import CRITERIA
from deadhead.errors import ArgumentError, BudgetError, UnknownNameError
from deadhead.losses.losses import LOSSES
from deadhead.options import values as choices
from deadhead.options.fields import choices_of, hints_of, option_facts
from deadhead.options.settings import Clustering, Distillation
from deadhead.options.values import parse_amount, parse_names, parse_size, show_amount
from deadhead.pruning.recipe import Recipe
from deadhead.repair import repair_names
from deadhead.runs.settings import DataSettings
from deadhead.similarity.clusters import REPRESENTATIVES, WARD_ON
from deadhead.similarity.distances import METRICS
from deadhead.similarity.gram import FIRST_TOKEN
from deadhead.similarity.groupings import GROUPINGS
from deadhead.strategies import STRATEGIES
from deadhead.strategies.rules import SCOPES
from deadhead.surgery import POLICIES
from deadhead.tasks import KINDS
from deadhead.types import ACTIONS, SLOPES

KNOWN = {
    "CriterionName": CRITERIA,
    "Strategy": ["auto", *STRATEGIES],
    "Repair": ["auto", *repair_names()],
    "Scope": SCOPES,
    "Gqa": POLICIES,
    "Action": ACTIONS,
    "Slope": SLOPES,
    "Loss": LOSSES,
    "Kind": KINDS,
    "Distance": METRICS,
    "Grouping": GROUPINGS,
    "Representative": REPRESENTATIVES,
    "WardOn": WARD_ON,
    "FirstToken": FIRST_TOKEN,
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_literal_names_what_the_registry_holds(name):
    assert set(typing.get_args(getattr(choices, name))) == set(KNOWN[name])


@pytest.mark.parametrize("kind", [Recipe, Clustering, Distillation])
def test_every_option_has_help_and_is_in_the_docstring(kind):
    options = [f for f in dataclasses.fields(kind) if (facts := option_facts(f)) and facts.help]
    assert options
    for field in options:
        help_ = option_facts(field).help
        assert help_.endswith("."), field.name
        assert f"{field.name}: {help_}" in kind.__doc__


def misspellings():
    for kind in (Recipe, Clustering):
        for name, hint in hints_of(kind).items():
            if choices_of(hint):
                yield pytest.param(kind, name, choices_of(hint)[-1], id=f"{kind.__name__}-{name}")


@pytest.mark.parametrize(("kind", "name", "choice"), list(misspellings()))
def test_a_misspelt_choice_gets_the_nearest_name(kind, name, choice):
    with pytest.raises(UnknownNameError, match=f"did you mean '{choice}'"):
        kind(**{name: f"{choice}_"})


@pytest.mark.parametrize("text", ["36", "50%", "1", "12.5%", "100%"])
def test_an_amount_is_shown_as_it_was_typed(text):
    assert show_amount(parse_amount(text)) == text


@pytest.mark.parametrize("text", ["", "0", "-1", "0%", "101%", "nan", "nan%", "inf", "1.5", "x"])
def test_no_amount(text):
    with pytest.raises(BudgetError, match="amount of heads"):
        parse_amount(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1.5", "9" * 5000])
def test_no_number_of_examples(text):
    with pytest.raises(BudgetError, match="not a number of examples"):
        parse_size(text)


@pytest.mark.parametrize("given", ["one.csv", ["one.csv"], ("one.csv",)])
def test_one_text_or_a_list_will_do_where_several_texts_are_taken(given):
    assert DataSettings(calibration=given).calibration == ("one.csv",)


@pytest.mark.parametrize("given", [3, ["one.csv", 3], [None], None, {"one.csv": 1}])
def test_what_holds_anything_but_texts_is_refused_where_texts_are_taken(given):
    with pytest.raises(ArgumentError, match="calibration cannot be"):
        DataSettings(calibration=given)


def test_names():
    assert parse_names("a, b,,a") == ("a", "b")
    assert parse_names("none") == ()
