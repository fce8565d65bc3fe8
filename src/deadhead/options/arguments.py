"""Arguments of public functions, checked against their annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar, get_type_hints

from deadhead.errors import ArgumentError, unknown_name
from deadhead.options.fields import allowed_by, is_of, is_plain

P = ParamSpec("P")
T = TypeVar("T")


def check_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Refuse arguments that are misspelled, or of a type that their annotation does not allow.

    Only annotations of numbers, text, paths, choices and callables are looked at.
    """
    signature = inspect.signature(function)

    @cache
    def hints() -> dict[str, Any]:  # when it is called first: some names are imported by then
        found = {name: _hint(function, name) for name in signature.parameters}
        return {name: hint for name, hint in found.items() if is_plain(hint)}

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in signature.parameters:
                raise unknown_name(f"argument of {function.__name__}:", name, signature.parameters)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints() and not is_of(value, hints()[name]):
                raise ArgumentError(
                    f"{name} cannot be {value!r:.80}; give {allowed_by(hints()[name])}"
                )
        return function(*args, **kwargs)

    return call


class _Alone:
    """Something with one annotation."""


def _hint(function: Callable[..., Any], name: str) -> Any:
    """Return the type of a parameter; None if it is not known outside of type checkers."""
    alone = _Alone()
    alone.__annotations__ = {name: function.__annotations__.get(name, Any)}
    try:
        return get_type_hints(alone, function.__globals__)[name]
    except NameError:
        return Any
