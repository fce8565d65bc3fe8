"""Commands made from settings: one field, one option.

A command is a function whose parameters are settings dataclasses. `command_of` lists their options,
makes the signature that Typer reads, and builds the settings from what was typed.
"""

from __future__ import annotations

import inspect
import io
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

from deadhead.cli.console import fail, say, show, show_json
from deadhead.options.fields import (
    OptionFacts,
    choices_of,
    hints_of,
    option,
    option_facts,
    settings,
)
from deadhead.options.settings import GROUPS, OUTPUT, PANELS
from deadhead_command import leaving_on_interrupt


@settings
class Screen:
    """What a command prints."""

    as_json: bool = option(
        default=False,
        flags=("--json",),
        help="Print one JSON object to stdout instead of tables.",
        panel=OUTPUT,
    )

    def end(self, value: Any, *lines: Any, notes: Iterable[str] = ()) -> None:
        """Print the results: as one JSON object, or as notes, tables and lines."""
        if self.as_json:
            return show_json(value)
        for note in notes:
            say(f"note: {note}")
        return show(*lines)


@settings
class Resumable(Screen):
    """What a command prints, and whether it continues an interrupted run."""

    resume: bool = option(
        default=False,
        help="Continue the interrupted run that was started with the same options.",
        panel=OUTPUT,
    )


class _Option(NamedTuple):
    name: str
    facts: OptionFacts
    hint: Any
    default: Any


def typed_command() -> str:
    """Return the command as it was typed, without --resume: it makes the run again."""
    return shlex.join(["deadhead", *(a for a in sys.argv[1:] if a != "--resume")])


def command_of(run: Callable[..., None]) -> Callable[..., None]:
    """Make the function that Typer calls from one that takes settings.

    Options that do nothing, by `idle` of the first settings, are refused if they were typed.
    """
    hints = get_type_hints(run)
    kinds = [hints[name] for name in inspect.signature(run).parameters]
    options: dict[str, _Option] = {}
    for each in (each for kind in kinds for each in _walk(kind)):
        options.setdefault(each.name, each)

    @wraps(run)
    def command(context: typer.Context, **typed: Any) -> None:
        _start()
        values = {name: _read(options[name], value) for name, value in typed.items()}
        made = [_build(kind, values) for kind in kinds]
        idle = made[0].idle() if hasattr(made[0], "idle") else ()
        for each in options.values():
            source = context.get_parameter_source(each.name)
            if each.facts.group in idle and source is not None and source.name == "COMMANDLINE":
                why = GROUPS[each.facts.group]
                fail(f"{_flag(each)} does nothing here: it is for {why}; leave it out")
        run(*made)

    parameters = [inspect.Parameter("context", _KIND, annotation=typer.Context)]
    by_panel = sorted(options.values(), key=lambda o: (o.default is not MISSING, _rank(o)))
    parameters += map(_parameter, by_panel)
    command.__doc__ = _reflowed(run.__doc__ or "")
    del command.__wrapped__  # or its signature would be read
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _start() -> None:
    """Import what takes seconds; leave the screen to us: no bars, no advice of other packages."""
    with leaving_on_interrupt():
        from transformers.utils import logging

        import deadhead.runs.prune  # noqa: F401 - nearly everything

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|torch|datasets")


_KIND = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _reflowed(text: str) -> str:
    """Join the lines of each paragraph; the help breaks them anew. Examples stay as they are."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p if "  " in p else p.replace("\n", " ") for p in paragraphs)


def _nested(hint: Any) -> type | None:
    """Return the settings that a field holds, also if it may hold None; None if it holds none."""
    return next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)  # type: ignore[return-value]


def _walk(
    kind: Any, without: frozenset[str] = frozenset(), *, optional: bool = False
) -> Iterator[_Option]:
    """Yield the options of settings, those of nested settings included."""
    hints = hints_of(kind)
    for each in fields(kind):
        facts = option_facts(each)
        if facts is None or each.name in without:
            continue
        if (inner := _nested(hints[each.name])) is not None:
            off = without | frozenset(facts.without)
            yield from _walk(inner, off, optional=_allows_none(hints[each.name]))
        else:
            default = None if optional and each.default is MISSING else each.default
            yield _Option(_name(each, facts), facts, hints[each.name], default)


def _allows_none(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _rank(each: _Option) -> int:
    return -1 if each.facts.panel is None else PANELS.index(each.facts.panel)


def _name(each: Field[Any], facts: OptionFacts) -> str:
    long = next((flag for flag in facts.flags if flag.startswith("--")), each.name)
    return long.split("/")[0].lstrip("-").replace("-", "_")


def _flag(each: _Option) -> str:
    return f"--{each.name.replace('_', '-')}"


def _parameter(each: _Option) -> inspect.Parameter:
    facts, default = each.facts, each.default
    kind = each.hint if facts.parse is None else facts.raw
    if facts.parse is None and get_origin(kind) is tuple:
        kind, default = list[get_args(kind)[0]], None  # type: ignore[misc]
    elif choices_of(kind):
        kind = str
    if facts.shown is not None:
        default = facts.shown
    if default is None and not _allows_none(kind):
        kind = kind | None
    text = facts.help
    if choices := choices_of(each.hint):
        text = f"{text.removesuffix('.')} ({', '.join(choices)})."
    if facts.metavar:
        about = typer.Argument(help=escape(text), metavar=facts.metavar, show_default=False)
        return inspect.Parameter(each.name, _KIND, annotation=Annotated[kind, about])
    flags = facts.flags or ((_flag(each),) if kind is bool and default is False else ())
    about = typer.Option(*flags, help=escape(text), rich_help_panel=facts.panel)
    default = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(each.name, _KIND, default=default, annotation=Annotated[kind, about])


def _read(each: _Option, value: Any) -> Any:
    """Turn what Typer gives into the value of the field."""
    if get_origin(each.hint) is tuple and each.facts.parse is None:
        return tuple(value or ())
    if each.facts.parse is None or value is None or value == []:
        return value
    return each.facts.parse(value)


def _build(kind: Any, values: Mapping[str, Any], without: frozenset[str] = frozenset()) -> Any:
    """Build settings; optional nested ones are None if what they need was not typed."""
    hints, given = hints_of(kind), {}
    for each in fields(kind):
        facts = option_facts(each)
        if each.name == "command":
            given[each.name] = typed_command()
        if facts is None or each.name in without:
            continue
        if (inner := _nested(hints[each.name])) is not None:
            off = without | frozenset(facts.without)
            needed = [o.name for o in _walk(inner, off) if o.default is MISSING]
            unnamed = any(values[name] in (None, ()) for name in needed)
            missing = unnamed and _allows_none(hints[each.name])
            given[each.name] = None if missing else _build(inner, values, off)
        else:
            given[each.name] = values[_name(each, facts)]
    return kind(**given)
