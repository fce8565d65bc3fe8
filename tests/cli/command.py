"""What a command did, and the arguments that make it small."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MODEL = "bundled:encoder"
DATA = ("-t", "bundled:sentiment", "--calibration-size", "8")
SMALL = (*DATA, "--test-size", "16", "--no-speed", "--heads", "4", "--per-step", "4")


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON value on stdout."""
        return json.loads(self.out)

    def refused(self) -> str:
        """Check that this is a clear refusal and return its line."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        assert self.out == ""
        line = self.err[self.err.index("error: ") :].rstrip("\n")
        assert "\n" not in line
        return line
