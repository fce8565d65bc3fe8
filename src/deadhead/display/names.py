"""Names with a line each: what there is to choose from."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping
from types import ModuleType

WIDTH = 96


class Names(dict[str, str]):
    """Names and what each stands for; printed as a line each.

    >>> Names(greedy="scores again after every move", one_shot="scores once")
    greedy    scores again after every move
    one_shot  scores once
    """

    def __repr__(self) -> str:
        if not any(self.values()):
            return "\n".join(textwrap.wrap(", ".join(self), WIDTH))
        width = max(map(len, self))
        lines = [f"{name:<{width}}  {said}" for name, said in self.items()]
        return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines)


def first_lines(things: Mapping[str, object]) -> Names:
    """Return the first line of the docstring of each thing."""
    said = {name: (thing.__doc__ or "").strip() for name, thing in things.items()}
    return Names({name: text.partition("\n")[0] for name, text in said.items()})


def listed_when_called(package: str, names: Callable[[], Names]) -> None:
    """Make `deadhead.criteria()` list names, though `deadhead.criteria` is a package as well."""

    class Listing(ModuleType):
        def __call__(self) -> Names:
            return names()

    sys.modules[package].__class__ = Listing
