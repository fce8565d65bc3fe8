"""Odd values, and documents that are nearly right."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NUMBERS = (0, -1, 1, 2, 7, 10**9, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, 1e-320)
NUMBERS += (float("nan"), float("inf"), float("-inf"))
TEXTS = ("", " ", "none", "auto", "\x1b[31mred", "a\nb", "\u202e", "0.1", "-1", "50%", "9" * 5000)
TEXTS += ("ß漢🙂", "../../etc/passwd", "x" * 3000, "{}", "NaN", "~nobody/x")

CHANGES = ("alike",) * 4 + ("replace", "replace", "remove", "add", "wrap")

scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.text(max_size=6)
)
odd = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(TEXTS), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """List every (container, key) of a document, the long lists only at their beginning."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(min(len(value), 4)))
    else:
        return []
    return [place for key in keys for place in ((value, key), *places(value[key]))]


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Other values of the same type."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, (int, float)):
        return st.sampled_from((value + 1, value - 1, value * 2, *NUMBERS))
    if isinstance(value, str):
        return st.sampled_from((value[:-1], value.upper(), value + "x", *TEXTS))
    if isinstance(value, list):
        return st.sampled_from((value[1:], value[:-1], value * 2, value[::-1], []))
    return st.just({} if value else None)


@st.composite
def nearly(draw: Callable[..., Any], document: Any) -> str:
    """A JSON text that is a document but for a few values, or but for a few characters."""
    value = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        container, key = draw(st.sampled_from(places(value) or [([None], 0)]))
        change = draw(st.sampled_from(CHANGES))
        if change == "alike":
            container[key] = draw(alike(container[key]))
        elif change == "replace":
            container[key] = draw(odd)
        elif change == "remove":
            del container[key]
        elif change == "add" and isinstance(container, dict):
            container[draw(st.sampled_from(TEXTS))] = draw(odd)
        else:
            container[key] = [container[key]]
    text = json.dumps(value)
    damage = draw(st.sampled_from((None,) * 8 + ("cut", "insert", "nested", "digits")))
    if damage is None:
        return text
    at = draw(st.integers(0, len(text)))
    filling = {"insert": draw(st.text(max_size=3)), "nested": "[" * 9999, "digits": "9" * 5000}
    return text[:at] + ("" if damage == "cut" else filling[damage] + text[at:])


@st.composite
def damaged(draw: Callable[..., Any], content: bytes) -> bytes:
    """Bytes that differ from those of a file here and there."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(found)))
        size = draw(st.integers(0, 4))
        found[at : at + size] = draw(st.binary(max_size=4))
    return bytes(found)


def each_of(strategy: Any, n: int, check: Callable[[Any], None]) -> None:
    """Check `n` examples, the same ones in every run."""

    @given(strategy)
    def run(example: Any) -> None:
        check(example)

    settings(
        max_examples=n,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(run)()
