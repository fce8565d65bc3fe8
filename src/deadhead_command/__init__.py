"""The entry of the command: it answers Ctrl-C from the first import on.

It stands beside the package, because importing torch and transformers takes seconds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def main() -> None:
    """Run the command; see `deadhead.cli`."""
    with leaving_on_interrupt():
        from deadhead import cli

        app = cli.command()
    cli.run(app)


@contextmanager
def leaving_on_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once: half-imported libraries swallow or twist exceptions."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # in the background it is ignored, and stays so
        signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(*_: Any) -> None:
    sys.stderr.write("stopped before anything was done\n")
    sys.stderr.flush()
    os._exit(130)
