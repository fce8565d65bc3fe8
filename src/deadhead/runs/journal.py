"""What a run has done so far, a line at a time, so that it can be stopped and go on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deadhead.errors import CheckpointError, DataError, DeadheadError, OutputExistsError
from deadhead.files import as_path, check_empty, decode, one_line, parse_json, write_json
from deadhead.pruning.auto import AutoChoice
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.trajectory import Completed, Step
from deadhead.types import HeadScores

JOURNAL, TEMPORARY = "journal.jsonl", ".deadhead-*.tmp"


def partial_folder(output: Path) -> Path:
    """Return where an interrupted run waits to be resumed: beside the output folder."""
    whole = as_path(output, "the output").absolute()  # "." has no name to put another beside
    return whole.with_name(f"{whole.name}.partial")


@dataclass
class Journal:
    """An append-only log next to the output folder: `OUT.partial/journal.jsonl`.

    A line that was cut off by a crash is dropped when the journal is read.
    """

    folder: Path
    scores: HeadScores | None = None
    decision: dict[str, Any] | None = None
    steps: list[Step] = field(default_factory=list)
    random: dict[tuple[int, int], float] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, output: Path, header: Mapping[str, Any], *, resume: bool) -> Journal:
        """Start a journal, or with `resume` read the one that is there."""
        folder = partial_folder(output)
        check_empty(output)
        file = folder / JOURNAL
        if not resume:
            if file.exists():
                raise OutputExistsError(
                    f"{str(folder)!r} holds an interrupted run; continue with --resume or remove it"
                )
            # what a killed start of a journal left there is ours
            foreign = folder.is_dir() and any(not f.match(TEMPORARY) for f in folder.iterdir())
            if foreign or (folder.exists() and not folder.is_dir()):
                raise OutputExistsError(
                    f"{str(folder)!r} holds files that are not deadhead's; move them elsewhere, or"
                    " choose another output with -o"
                )
            journal = cls(folder)
            try:  # the header is written whole, or there is no journal
                write_json(file, {"header": header}, indent=None)
            except CheckpointError:
                journal.remove()
                raise
            return journal
        if not file.exists():
            raise DataError(
                f"there is no interrupted run in {str(folder)!r}; start without --resume"
            )
        return cls._read(folder, file, header)

    @classmethod
    def _read(cls, folder: Path, file: Path, header: Mapping[str, Any]) -> Journal:
        journal = cls(folder)
        lines = _whole_lines(file)
        try:
            texts = [decode(line, str(file)) for line in lines]
            entries = [parse_json(text, "a line", "a part of a run") for text in texts]
            before = dict(entries[0]["header"])
            for entry in entries[1:]:
                journal._take(entry)
        except (DeadheadError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{str(file)!r} is not a journal ({one_line(repr(error))});"
                f" remove {str(folder)!r} and start again without --resume"
            ) from error
        if before != header:
            parts = [k for k in header if before.get(k) != header[k]]
            raise DataError(
                f"the interrupted run in {str(folder)!r} was started with another"
                f" {', '.join(parts)}; give the same options, or remove it and start again"
            )
        return journal

    def _take(self, entry: Mapping[str, Any]) -> None:
        if "scores" in entry:
            self.scores = HeadScores.from_json(entry["scores"])
        elif "decision" in entry:
            self.decision = entry["decision"]
            AutoChoice.from_json(entry["decision"], Recipe())  # or it is no decision
        elif "step" in entry:
            self.steps.append(Step.from_json(entry["step"]))
        elif "random" in entry:
            draw, dropped, value = entry["random"]
            self.random[draw, dropped] = value
        elif "point" in entry:  # of a sweep
            self.points.append(entry["point"])

    def completed(self, recipe: Recipe) -> Completed:
        """Return what `prune` need not do again by this recipe."""
        made = None if self.decision is None else AutoChoice.from_json(self.decision, recipe)
        if made is None and recipe.settled().undecided and len(self.steps) > 1:
            raise DataError(
                f"the interrupted run in {str(self.folder)!r} does not say what auto had decided;"
                " remove it and start again"
            )
        return Completed(self.scores, tuple(self.steps), made)

    def write(self, kind: str, value: Any) -> None:
        """Append one entry."""
        file = self.folder / JOURNAL
        try:
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({kind: value}) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"could not write to {str(file)!r}: {error}; make room and go on with --resume"
            ) from error

    def remove(self) -> None:
        """Delete the journal, once the run is written."""
        with contextlib.suppress(OSError):
            (self.folder / JOURNAL).unlink(missing_ok=True)
            self.folder.rmdir()


def _whole_lines(file: Path) -> list[bytes]:
    """Read the lines of a file and cut a torn last one off, which takes no room on the disk."""
    try:
        content = file.read_bytes()
        length = content.rfind(b"\n") + 1
        if length < len(content):
            os.truncate(file, length)
    except OSError as error:
        raise CheckpointError(
            f"cannot read or repair {str(file)!r}: {error}; check its rights and --resume again"
        ) from error
    return content[:length].splitlines()
