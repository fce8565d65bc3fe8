"""Runs: from settings to one folder with everything in it, stoppable at any moment."""

from deadhead.runs.conduct import Watch, conduct, write_run
from deadhead.runs.explain import FinishedRun
from deadhead.runs.facts import data_facts, model_facts, size_facts, versions
from deadhead.runs.journal import Journal
from deadhead.runs.settings import DataSettings, ModelSettings, PromptSettings, RunSettings

__all__ = [
    "DataSettings",
    "FinishedRun",
    "Journal",
    "ModelSettings",
    "PromptSettings",
    "RunSettings",
    "Watch",
    "conduct",
    "data_facts",
    "model_facts",
    "size_facts",
    "versions",
    "write_run",
]
