"""What one law says of one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LawResult:
    """What one law says of one model.

    Attributes:
        law: name of the law.
        status: whether it holds.
        detail: the number that was found, or why the law fails or says nothing.
    """

    law: str
    status: Literal["passed", "failed", "not applicable"]
    detail: str


class NotApplicable(Exception):  # noqa: N818 - no error: a law that says nothing of a model
    """A law says nothing of this model; the message says why."""


class Refuted(ArithmeticError):  # noqa: N818 - of laws, and never seen by callers
    """A law does not hold; the message says by how much."""


def judged(name: str, law: Callable[[], str]) -> LawResult:
    """Call a law, and say whether it holds; whatever it trips over refutes it."""
    try:
        return LawResult(name, "passed", law())
    except NotApplicable as reason:
        return LawResult(name, "not applicable", str(reason))
    except Exception as error:  # of the model, or of the cut
        said = str(error) if isinstance(error, Refuted) else f"{type(error).__name__}: {error}"
        return LawResult(name, "failed", " ".join(said.split())[:300])
