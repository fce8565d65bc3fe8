"""What a run reports while it works, and has done so far, so that it can be stopped and go on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deadhead.errors import CheckpointError, DataError, DeadheadError, OutputExistsError
from deadhead.files import as_path, check_empty, decode, one_line, parse_json, write_json
from deadhead.pruning.auto import AutoChoice
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.trajectory import Completed, Step
from deadhead.types import HeadScores


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


JOURNAL = "journal.jsonl"


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
        """Start a journal, or with `resume` read the one that is there.

        Raises:
            OutputExistsError: `output` is not empty, or an interrupted run is there and `resume`
                is not set.
            DataError: nothing to resume, or it was made with other settings.
            CheckpointError: the journal cannot be read or repaired.
        """
        folder = partial_folder(output)
        check_empty(output)
        file = folder / JOURNAL
        if not resume:
            if file.exists():
                raise OutputExistsError(
                    f"{str(folder)!r} holds an interrupted run; continue with --resume or remove it"
                )
            if folder.exists() and not (folder.is_dir() and _is_ours(folder)):
                raise OutputExistsError(
                    f"{str(folder)!r} holds files that are not deadhead's; move them elsewhere, or"
                    " choose another output with -o"
                )
            journal = cls(folder)
            journal._start(header)
            return journal
        if not file.exists():
            raise DataError(
                f"there is no interrupted run in {str(folder)!r}; start without --resume"
            )
        return cls._read(folder, file, header)

    def _start(self, header: Mapping[str, Any]) -> None:
        """Write the header: whole, or there is no journal."""
        try:
            write_json(self.folder / JOURNAL, {"header": header}, indent=None)
        except CheckpointError:
            self.remove()
            raise

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
        """Return what `prune` need not do again by this recipe.

        Raises:
            DataError: steps were made by a method that the journal does not name.
        """
        made = None if self.decision is None else AutoChoice.from_json(self.decision, recipe)
        if made is None and recipe.settled().undecided and len(self.steps) > 1:
            raise DataError(
                f"the interrupted run in {str(self.folder)!r} does not say what auto had decided;"
                " remove it and start again"
            )
        return Completed(self.scores, tuple(self.steps), made)

    def write(self, kind: str, value: Any) -> None:
        """Append one entry.

        Raises:
            CheckpointError: it could not be written (disk full); what was there is intact.
        """
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


def _is_ours(folder: Path) -> bool:
    """Whether nothing is in a folder but what a killed start of a journal left there."""
    return all(path.match(".deadhead-*.tmp") for path in folder.iterdir())


def _whole_lines(file: Path) -> list[bytes]:
    """Read the lines of a file and cut a torn last one off, which takes no room on the disk.

    Raises:
        CheckpointError: the file cannot be read, or not be cut; it is as it was.
    """
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
