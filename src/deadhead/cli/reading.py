"""Files that commands read: plans, pruning logs of explainabloomity, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deadhead.cli.console import say
from deadhead.errors import DataError, FileFormatError, HeadError, ScoreError
from deadhead.files import read_json
from deadhead.interop import read_pruning_log
from deadhead.pruning.recipe import AUTO
from deadhead.repair import REPAIRS
from deadhead.surgery.groups import policy_named
from deadhead.types import HeadMask, HeadScores, PruningPlan

LOGS = (".txt", ".log", ".csv", ".tsv")  # endings of pruning logs


def note_other_model(what: str, provenance: Mapping[str, Any], name: str) -> None:
    """Say if a file was made with another model than the one at hand."""
    made_for = provenance.get("model")
    if made_for not in (None, name):
        say(f"note: the {what} made for {made_for!r}, and the model is {name!r}")


def read_plan(
    file: Path,
    mask: HeadMask,
    *,
    action: str | None = None,
    slope: str | None = None,
    gqa: str | None = None,
    repair: str | None = None,
) -> PruningPlan:
    """Read a plan.json, or a pruning log of explainabloomity, for a model that holds `mask`.

    `action`, `slope`, `gqa`, `repair` replace what the plan says. A log has none of them: it means
    `duplicate` with the slope of the `target`; and `ungroup`, as `prune` takes for single heads. It
    does not say either what was cut before: heads that the model has lost stay lost.

    Raises:
        DataError: there is no such file.
        FileFormatError: it is neither.
        HeadError: it is of another model, or a log that keeps a head which this model has lost.
        UnknownNameError: no such action, slope, policy or repair.
    """
    if repair is not None:
        _ = REPAIRS[repair]
    if gqa is not None:
        policy_named(gqa)
    if file.suffix.lower() in LOGS:
        found = _of_log(file, mask)
    else:
        found = PruningPlan.from_json(_plan_json(file))
        found.mask.check_shape(mask.counts)
    given = {"action": action, "slope": slope, "gqa": gqa, "repair": repair}
    return replace(found, **{name: value for name, value in given.items() if value is not None})


def _of_log(file: Path, mask: HeadMask) -> PruningPlan:
    found = read_pruning_log(file, counts=mask.counts)
    for head, source in found.copies.items():
        if not mask.keeps(source):
            raise HeadError(
                f"{str(file)!r} keeps head {source} in the place of {head}, and this model has lost"
                f" {source}; replay it on the uncut model, or plan again"
            )
    return replace(found, mask=found.mask & mask, gqa="ungroup")


def _plan_json(file: Path) -> dict[str, Any]:
    try:
        return read_json(file, what="a plan")
    except FileFormatError as error:
        if file.suffix.lower() == ".json":
            raise
        raise FileFormatError(f"{error}; pruning logs end in {', '.join(LOGS)}") from error


def read_scores(file: Path, criterion: str) -> HeadScores:
    """Read the scores of one criterion from what `deadhead score -o` or a run wrote.

    `auto` is the only one that the file holds.

    Raises:
        FileFormatError: the file is not scores.
        DataError: none of the criteria it holds is the one asked for.
    """
    data = read_json(file, what="scores")
    entries = [data] if "values" in data else data.values()
    try:
        held = {s.criterion: s for s in map(HeadScores.from_json, entries)}
    except ScoreError as error:
        raise FileFormatError(f"{str(file)!r} does not hold scores: {error}") from error
    if criterion == AUTO and len(held) == 1:
        return next(iter(held.values()))
    if criterion not in held:
        raise DataError(
            f"{str(file)!r} has no scores of {criterion!r}; it holds {', '.join(sorted(held))};"
            " name one with --criterion"
        )
    return held[criterion]
