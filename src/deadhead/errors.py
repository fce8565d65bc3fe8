"""The errors of deadhead, as a tree.

Every error says what was given, what is allowed and what to do. Each also inherits the built-in
that it specializes, so `except ValueError` goes on working.

    DeadheadError
    ├── UnknownNameError(KeyError)          a name that no registry holds
    │   └── UnsupportedModelError           a model type without an architecture record
    ├── HeadError(ValueError)               a head, mask or plan that does not fit the model
    │   └── GroupError                      a plan that would cut half a key/value group
    ├── ModelInUseError(RuntimeError)       a model that another thread or context is using
    ├── BudgetError(ValueError)             a number of heads that cannot be removed
    ├── ArgumentError(TypeError)            an argument that is no option, or of another type
    ├── ScoreError(ArithmeticError)         scores that are not finite, or cannot be computed
    ├── DataError(ValueError)               data that is empty, mislabeled or overlapping
    │   └── FileFormatError                 a file that is not what its ending says
    ├── CheckpointError(OSError)            a checkpoint whose parts disagree, a failed write
    ├── OutputExistsError(FileExistsError)  an output folder that is not empty
    └── MissingDependencyError(ImportError) an optional package that is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DeadheadError(Exception):
    """Root of every error that deadhead raises on purpose."""

    def __str__(self) -> str:  # KeyError would print its repr
        return str(self.args[0]) if self.args else ""


class UnknownNameError(DeadheadError, KeyError):
    """A name that no registry holds."""


class UnsupportedModelError(UnknownNameError):
    """A model type without an architecture record."""


class HeadError(DeadheadError, ValueError):
    """A head, mask or plan that does not fit the model."""


class GroupError(HeadError):
    """A plan that would cut half a key/value group."""


class ModelInUseError(DeadheadError, RuntimeError):
    """A model that another thread, or an outer context, is using."""


class BudgetError(DeadheadError, ValueError):
    """A number of heads that cannot be removed."""


class ArgumentError(DeadheadError, TypeError):
    """An argument that a function does not take, or of a type that an option cannot have."""


class ScoreError(DeadheadError, ArithmeticError):
    """Scores that are not finite, or cannot be computed."""


class DataError(DeadheadError, ValueError):
    """Data that is empty, mislabeled or overlapping."""


class FileFormatError(DataError):
    """A file that is not what its ending says."""


class CheckpointError(DeadheadError, OSError):
    """A checkpoint whose parts disagree, or a write that failed."""


class OutputExistsError(DeadheadError, FileExistsError):
    """An output folder that is not empty."""


class MissingDependencyError(DeadheadError, ImportError):
    """An optional package that is not installed."""


def not_finite(what: str) -> ScoreError:
    """Build the error for numbers that are not finite."""
    return ScoreError(
        f"{what}; look with 'deadhead score --diagnose', or compute with --dtype float32"
    )


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that `known` does not hold, with the nearest one."""
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return UnknownNameError(f"{kind} {given!r:.200} is not known{hint} known: {', '.join(names)}")


def check_name(kind: str, given: str, known: Iterable[str]) -> None:
    """Refuse a name that `known` does not hold.

    Raises:
        UnknownNameError: with the nearest name.
    """
    if given not in known:
        raise unknown_name(kind, given, known)
