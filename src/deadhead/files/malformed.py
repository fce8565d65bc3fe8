"""Values of the wrong form: one error of ours for whatever Python raises on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deadhead.errors import DeadheadError
from deadhead.files.text import one_line


@contextmanager
def refusing(kind: type[DeadheadError], what: str, advice: str) -> Iterator[None]:
    """Turn what Python raises on a value of the wrong form into an error of ours.

    Args:
        kind: the class of the error.
        what: what is wrong, such as `this is not a pruning plan`.
        advice: what to do.

    Raises:
        DeadheadError: of the block as it is; everything else becomes one of `kind`.
    """
    try:
        yield
    except DeadheadError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as e:
        reason = str(e) if isinstance(e, (TypeError, ValueError)) else repr(e)
        raise kind(f"{what} ({one_line(reason)}); {advice}") from e
