"""A field of a settings dataclass that is also an option of the command and of Python.

`option` writes down what the command line needs to know of a field: its help, its panel, its flags,
how its text is read. `deadhead.cli` makes the command line from that, and `asdict` makes run.json.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from deadhead.display import Brief
from deadhead.errors import ArgumentError, unknown_name
from deadhead.files import refusing

KEY = "deadhead"  # of the metadata of a field
T = TypeVar("T")


@dataclass(frozen=True)
class OptionFacts:
    """What the command line knows of a field.

    Attributes:
        panel: heading in the help; None: among the first options.
        flags: as typed; the first long one names the parameter. Empty: made from the field's name.
        parse: reads the text that was typed, of type `raw`. None: Typer reads it.
        shown: the default as it would be typed, where `parse` is set.
        group: options that do nothing in the same cases; see `GROUPS`.
        metavar: name of an argument that is given by position; empty: an option.
        without: of nested settings: fields that are no options of this command.
    """

    help: str = ""
    panel: str | None = None
    flags: tuple[str, ...] = ()
    parse: Callable[[Any], Any] | None = None
    raw: Any = str
    shown: str | None = None
    group: str = ""
    metavar: str = ""
    without: Collection[str] = ()


def option(
    *,
    help: str,
    default: Any = MISSING,
    flags: tuple[str, ...] = (),
    panel: str | None = None,
    parse: Callable[[Any], Any] | None = None,
    raw: Any = str,
    shown: str | None = None,
    group: str = "",
    metavar: str = "",
    kw_only: bool = True,
) -> Any:
    """Make a field that is an option; see `OptionFacts`."""
    facts = OptionFacts(help, panel, flags, parse, raw, shown, group, metavar)
    return field(default=default, metadata={KEY: facts}, kw_only=kw_only)


def part(*, default: Any = MISSING, factory: Any = MISSING, without: Collection[str] = ()) -> Any:
    """Make a field of nested settings; their options are the command's, but those in `without`."""
    metadata = {KEY: OptionFacts(without=without)}
    return field(default=default, default_factory=factory, metadata=metadata, kw_only=True)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(option, part, field)
)
def settings(cls: type[T]) -> type[T]:
    """Make a frozen dataclass of options; its docstring says what each is for."""
    after: Callable[[Any], None] = getattr(cls, "__post_init__", lambda self: None)

    def check(self: Any) -> None:
        check_types(self)
        after(self)

    cls.__post_init__ = check  # type: ignore[attr-defined]
    made: Any = dataclass(frozen=True, kw_only=True, repr=False)(cls)
    made.__repr__ = Brief.__repr__
    lines = [
        f"    {each.name}: {facts.help}"
        for each in fields(made)
        if (facts := option_facts(each)) is not None and facts.help
    ]
    if lines and made.__doc__:
        made.__doc__ = "\n".join([made.__doc__.rstrip(), "", "Options:", *lines])
    return made


def option_facts(each: Field[Any]) -> OptionFacts | None:
    """Return what the command line knows of a field; None if it is no option."""
    return each.metadata.get(KEY)


@cache
def hints_of(settings: type) -> Mapping[str, Any]:
    """Return the types of the fields of a settings dataclass."""
    return get_type_hints(settings)


def choices_of(hint: Any) -> tuple[str, ...]:
    """Return what a `Literal` allows, also one among others: `Literal[...] | None`."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for each in get_args(hint) for choice in choices_of(each))


def check_types(settings: Any) -> None:
    """Read what a caller typed as the command line would, and check every field's type."""
    hints = hints_of(type(settings))
    for each in fields(settings):
        facts, value, hint = option_facts(each), getattr(settings, each.name), hints[each.name]
        if is_of(value, hint):
            continue
        if (several := _several(value, hint, facts)) is not None:
            object.__setattr__(settings, each.name, several)
            continue
        allowed, what = allowed_by(hint), f"{each.name} cannot be {value!r:.80}"
        if not isinstance(value, str) or facts is None or facts.parse is None:
            raise ArgumentError(f"{what}; give {allowed}")
        with refusing(ArgumentError, what, f"give {allowed}"):
            object.__setattr__(settings, each.name, facts.parse(value))


def _several(value: Any, hint: Any, facts: OptionFacts | None) -> tuple[Any, ...] | None:
    """Return a list, or one text, as the tuple that a field of several takes; None if it cannot."""
    parsed = facts is not None and facts.parse is not None
    if get_origin(hint) is not tuple or not isinstance(value, list if parsed else (list, str)):
        return None
    found = (value,) if isinstance(value, str) else tuple(value)
    return found if is_of(found, hint) else None


def allowed_by(hint: Any) -> str:
    """Say what a type allows: its choices, or its name."""
    return ", ".join(choices_of(hint)) or str(getattr(hint, "__name__", hint))


def is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: numbers of numpy are numbers, truth values are not."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return isinstance(value, str)  # `check_choices` names the nearest one
    if origin in (Union, UnionType):
        return any(is_of(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(is_of(each, parts[0]) for each in value)
    if hint in (int, float):
        number = Integral if hint is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def is_plain(hint: Any) -> bool:
    """Whether a type is one of numbers, text, paths, choices, functions, or several of these."""
    if get_origin(hint) in (Union, UnionType):
        return all(map(is_plain, get_args(hint)))
    return get_origin(hint) in (Literal, Callable) or hint in _PLAIN


_PLAIN = (bool, int, float, str, Path, NoneType)


def check_choices(settings: Any, *, but: Collection[str] = ()) -> None:
    """Check every field whose type is a `Literal`."""
    hints = hints_of(type(settings))
    for each in fields(settings):
        known = choices_of(hints[each.name])
        given = getattr(settings, each.name)
        if known and each.name not in but and given is not None and given not in known:
            raise unknown_name(each.name, given, known)


P = ParamSpec("P")


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
