"""Names that are looked up; what each stands for is imported when it is used."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from deadhead.errors import UnknownNameError, unknown_name

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Map names to entries of one kind: criteria, strategies, repairs, tasks.

    Entries of our own are imported on first use, so importing the
    registry is cheap. Looking up a name that is not known raises `UnknownNameError` with the
    nearest one. Iteration is in alphabetical order.

    Args:
        kind: what an entry is, for messages.
        modules: for each entry of our own, the module that registers it.

    Example:
        >>> fruit = Registry[str]("fruit")
        >>> _ = fruit.register("apple", "a pome")
        >>> list(fruit)
        ['apple']
    """

    def __init__(self, kind: str, modules: Mapping[str, str] | None = None):
        self.kind = kind
        self._modules = dict(modules or {})
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> T:
        """Add an entry, in place of any other of that name; return it."""
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        """Look up an entry.

        Raises:
            UnknownNameError: there is none of that name.
        """
        if name not in self:
            raise unknown_name(self.kind, name, self)
        if name not in self._entries:
            before = dict(self._entries)
            import_module(self._modules[name])
            self._entries |= before  # what a caller registered in place of our own stays
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._modules}))

    def __len__(self) -> int:
        return len({*self._entries, *self._modules})

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Forget, at the end of the context, what is registered in it."""
        entries = dict(self)  # a module registers only the first time it is imported
        try:
            yield
        finally:
            self._entries = entries

    def described(self) -> dict[str, str]:
        """Return the first line of every entry's docstring, by name."""
        return {name: (inspect.getdoc(self[name]) or "").partition("\n")[0] for name in self}


def read_options(
    kind: str, name: str, pairs: Sequence[str], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Read the options of an entry, as typed behind its name: `name:option=value:option=value`.

    Args:
        kind: what an entry is, for messages.
        name: of the entry.
        pairs: what stands between the colons.
        known: the options, with their defaults, whose types the values have.

    Raises:
        UnknownNameError: there is no such option, or the value is of another type.
    """
    texts: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        last = next(reversed(texts), None)
        if last is not None and known[last] == "" and not (equals and key in known):
            texts[last] += f":{pair}"  # paths and names of tables may hold colons
            continue
        if not known:
            raise UnknownNameError(f"{kind} {name!r} has no options, got {pair!r}")
        if key not in known or not equals:
            raise unknown_name(f"option of {name}", key, known)
        texts[key] = value
    return {key: _option(name, key, value, known[key]) for key, value in texts.items()}


def _option(name: str, key: str, text: str, default: Any) -> Any:
    """Read an option's value as the type of its default."""
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError) as error:
        allowed = "true or false" if kind is bool else f"a number, as in {default}"
        raise UnknownNameError(
            f"option {key}={text!r} of {name} cannot be read; write {allowed}"
        ) from error
