"""What a run reports while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Watch:
    """Callbacks of a run; all optional.

    Attributes:
        on_total: called with the number of pieces of work to come; again when that changes.
        on_work: called after every piece of work, with its name.
        on_note: called with a line that people should read: what is going to be done, what was
            decided.
    """

    on_total: Callable[[int], None] = lambda total: None
    on_work: Callable[[str], None] = lambda what: None
    on_note: Callable[[str], None] = lambda line: None
