"""Runs: from settings to one folder with everything in it, stoppable at any moment."""

from deadhead.runs.conduct import Watch, conduct, versions, write_run
from deadhead.runs.journal import Journal
from deadhead.runs.settings import DataSettings, ModelSettings, RunSettings

__all__ = [
    "DataSettings",
    "Journal",
    "ModelSettings",
    "RunSettings",
    "Watch",
    "conduct",
    "versions",
    "write_run",
]
