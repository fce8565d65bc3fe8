"""Keyword arguments of functions from the fields of a settings dataclass.

A function that takes the options of `Recipe` is made by a function of `Callable[P, Recipe]`, whose
parameter specification `P` names them for editors and type checkers; `with_options` does so for
`help` and notebooks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from deadhead.errors import ArgumentError, unknown_name
from deadhead.pruning.recipe import Recipe

Function = TypeVar("Function", bound=Callable[..., Any])


def with_options(settings: Callable[..., Any], function: Function) -> Function:
    """Show options in a function's signature, and refuse any other argument by its nearest name."""
    own = inspect.signature(function).parameters
    named = [p for p in own.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = inspect.signature(settings).parameters.values()
    known = [parameter.name for parameter in (*named, *options)]

    @wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        for name in given:
            if name not in known:
                raise ArgumentError(f"{function.__name__}: {unknown_name('argument', name, known)}")
        return function(*args, **given)

    made: Any = checked
    made.__signature__ = inspect.Signature([*named, *options])
    made.__qualname__ = function.__name__
    return made


def recipe_of(
    recipe: Recipe | None, positional: tuple[Any, ...], options: Mapping[str, Any]
) -> Recipe:
    """Return a recipe with some of its fields changed.

    Raises:
        ArgumentError: something else is given in place of the recipe.
        BudgetError, UnknownNameError: as `Recipe`.
    """
    if positional or not isinstance(recipe, Recipe | None):
        odd = positional[0] if positional else recipe
        raise ArgumentError(
            f"{odd!r:.80} is not a recipe; give a deadhead.Recipe, or its fields by name: heads=0.5"
        )
    return replace(recipe or Recipe(), **options)
