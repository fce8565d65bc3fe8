"""Files that commands read: plans, pruning logs of explainabloomity, scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deadhead.artefacts import read_pruning_log
from deadhead.cli.console import say
from deadhead.errors import DataError, FileFormatError
from deadhead.types import HeadScores, PruningPlan

LOGS = (".txt", ".log", ".csv", ".tsv")  # endings of pruning logs


def note_other_model(what: str, provenance: Mapping[str, Any], name: str) -> None:
    """Say if a file was made with another model than the one at hand."""
    made_for = provenance.get("model")
    if made_for not in (None, name):
        say(f"note: the {what} made for {made_for!r}, and the model is {name!r}")


def read_plan(
    file: Path, counts: Sequence[int], *, action: str | None = None, slope: str | None = None
) -> PruningPlan:
    """Read a plan.json, or a pruning log of explainabloomity, for a model of `counts` heads.

    `action` and `slope` replace what the plan says; a log says neither, and means `duplicate` with
    the slope of the `target`.

    Raises:
        DataError: there is no such file.
        FileFormatError: it is neither.
        HeadError: it is of another model.
    """
    if file.suffix.lower() in LOGS:
        found = read_pruning_log(file, counts=counts)
    else:
        found = PruningPlan.from_json(read_json(file, "a plan"))
        found.mask.check_shape(counts)
    return replace(found, action=action or found.action, slope=slope or found.slope)


def read_scores(file: Path, criterion: str) -> HeadScores:
    """Read the scores of one criterion from what `deadhead score -o` or a run wrote.

    Raises:
        FileFormatError: the file is not scores.
        DataError: none of the criteria it holds is the one asked for.
    """
    data = read_json(file, "scores")
    entries = [data] if "values" in data else data.values()
    try:
        read = [HeadScores.from_json(entry) for entry in entries]
        held = {s.criterion: replace(s, provenance=dict(s.provenance)) for s in read}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(
            f"{str(file)!r} does not hold scores ({error!r}); make it with 'deadhead score -o'"
        ) from error
    if criterion not in held:
        raise DataError(
            f"{str(file)!r} has no scores of {criterion!r}; it holds {', '.join(sorted(held))};"
            " name one with --criterion"
        )
    return held[criterion]


def read_json(file: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: there is no such file.
        FileFormatError: it is not a JSON object.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{str(file)!r} is not there; give the file that holds {what}") from error
    except (ValueError, OSError, RecursionError) as error:
        raise FileFormatError(
            f"{str(file)!r} is not JSON ({error}); it should hold {what}"
        ) from error
    if not isinstance(data, dict):
        raise FileFormatError(f"{str(file)!r} is not a JSON object; it should hold {what}")
    return data
