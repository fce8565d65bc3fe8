"""Pruning logs, as explainabloomity wrote them: which head took over which."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deadhead.errors import FileFormatError, HeadError
from deadhead.files import as_path, decode, fingerprint, lines_of, read_bytes, write_text
from deadhead.interop.importance import blocks_of
from deadhead.options.fields import check_arguments
from deadhead.types import Head, HeadMask, PruningPlan

_FORMS = {3: "layer, kept, removed", 4: "layer, kept, layer, removed"}
_SEPARATOR = re.compile(r"\s*,\s*|\s+")
_NUMBER = re.compile(r"-?[0-9]{1,9}")


class _Line(NamedTuple):
    """One line of a log: `removed` takes over the Q, K, V of `kept`."""

    place: str
    kept: Head
    removed: Head


@check_arguments
def read_pruning_log(
    path: str | Path,
    *,
    counts: Sequence[int],
    action: str = "duplicate",
    slope: str = "target",
) -> PruningPlan:
    """Read a pruning log as a plan for the model at hand.

    A line names a removed head and the one it was replaced by: `layer, kept, removed`, or
    `layer, kept, layer, removed`, which may span blocks. Commas or blanks separate; a header and
    blank lines are passed over. Lines have no order: where a kept head is itself removed
    (`0, 1, 2` and `0, 2, 3`), the last source of the chain is taken for both and the provenance
    lists the head under `chains`.

    A log that is missing or lists nothing is refused; it never means the unpruned model.

    Args:
        path: the log.
        counts: heads per block of the model.
        action: what becomes of the removed heads. The log does not say; it was written for
            `duplicate`.
        slope: whose ALiBi slope a copy has. The published code kept the `target`'s.

    Raises:
        DataError: there is no such file.
        FileFormatError: it is not a pruning log.
        HeadError: it names heads that the model does not have, or contradicts itself.

    Source: the logs in pruning_logs/ of explainabloomity (its README is the reference).
    """
    path = as_path(path, "a pruning log")
    content = read_bytes(path, "a pruning log (a missing log is never the unpruned model)")
    lines, columns = _parse(decode(content, str(path)), str(path))
    direct: dict[Head, Head] = {}
    for line in lines:
        _check(line, counts, direct)
        direct[line.removed] = line.kept
    copies = {head: _last_source(head, direct, str(path)) for head in direct}
    provenance: dict[str, Any] = {
        "strategy": "pruning log",
        "file": path.name,
        "fingerprint": fingerprint(content),
        "columns": columns,
    }
    chained = {str(h): f"{direct[h]} -> {copies[h]}" for h in direct if direct[h] != copies[h]}
    if chained:
        provenance["chains"] = chained
    mask = HeadMask.full(counts).drop(*copies)
    return PruningPlan(mask, copies, action, slope=slope, provenance=provenance)


def write_pruning_log(plan: PruningPlan, path: str | Path, *, columns: Literal[3, 4] = 3) -> None:
    """Write a plan's removed heads and their sources; the file appears whole or not at all.

    A log holds nothing else: action, slope, GQA policy and provenance stay in the plan's JSON.

    Raises:
        HeadError: the plan removes nothing, or a head without a source; or `columns` is 3 and a
            source is in another block.
        FileFormatError: `columns` is neither 3 nor 4.
    """
    if columns not in _FORMS:
        raise FileFormatError(f"a pruning log has 3 or 4 columns, not {columns!r}")
    dropped = set(plan.mask.dropped)
    if not dropped:
        raise HeadError("the plan removes no head; an empty log cannot be told from a lost one")
    alone = min(dropped ^ set(plan.copies), default=None)
    if alone is not None:
        what = "is removed without a source" if alone in dropped else "is copied but not removed"
        raise HeadError(
            f"head {alone} {what}, which a pruning log cannot say; make the plan with a grouping,"
            " or keep it as JSON"
        )
    rows = []
    for head, source in plan.copies.items():
        if columns == 3 and head.block != source.block:
            raise HeadError(
                f"head {head} is a copy of {source} in another block, which a log of 3 columns"
                " cannot say; write 4 columns"
            )
        end = (head.index,) if columns == 3 else head
        rows.append(", ".join(map(str, (*source, *end))))
    write_text(path, "\n".join(rows) + "\n")


def _parse(text: str, name: str) -> tuple[list[_Line], int]:
    """Read the lines, and how many columns they have."""
    lines: list[_Line] = []
    columns, headed = 0, False
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        place = f"line {number} of {name!r}"
        fields = _SEPARATOR.split(line.strip())
        if not lines and not headed and not any(_NUMBER.fullmatch(field) for field in fields):
            headed = True
            continue
        _check_width(len(fields), columns, place)
        columns = len(fields)
        layer, kept, *removed = (_whole(field, place) for field in fields)
        lines.append(_Line(place, Head(layer, kept), Head(*(layer, *removed)[-2:])))
    if not lines:
        raise FileFormatError(
            f"the pruning log {name!r} lists no head; an empty log never means the unpruned model:"
            " find the log of the run, or plan again"
        )
    return lines, columns


def _check_width(found: int, columns: int, place: str) -> None:
    if found not in _FORMS:
        raise FileFormatError(
            f"{place} has {found} column{'s' * (found != 1)}; a pruning log has 3"
            f" ({_FORMS[3]}) or 4 ({_FORMS[4]})"
        )
    if columns not in (0, found):
        raise FileFormatError(
            f"{place} has {found} columns and those before have {columns}; a log has one form"
        )


def _whole(field: str, place: str) -> int:
    if not _NUMBER.fullmatch(field):
        raise FileFormatError(
            f"{place} has {field[:40]!r}, which is not a whole number; write {_FORMS[3]}"
        )
    if int(field) < 0:
        raise FileFormatError(f"{place} has {field}; layers and heads count from 0")
    return int(field)


def _check(line: _Line, counts: Sequence[int], direct: dict[Head, Head]) -> None:
    for head in (line.kept, line.removed):
        if head.block >= len(counts) or head.index >= counts[head.block]:
            raise HeadError(
                f"{line.place} names head {head}, the model has {blocks_of(counts)}: is it a log of"
                " another model?"
            )
    if line.kept == line.removed:
        raise HeadError(f"{line.place} removes head {line.removed} in favor of itself; correct it")
    before = direct.get(line.removed, line.kept)
    if before != line.kept:
        raise HeadError(
            f"{line.place} replaces head {line.removed} by {line.kept}, a line before it by"
            f" {before}; keep one of them"
        )


def _last_source(head: Head, direct: dict[Head, Head], name: str) -> Head:
    """Follow a chain of copies to a head that stays."""
    chain = [head]
    while chain[-1] in direct:
        chain.append(direct[chain[-1]])
        if chain[-1] == head or len(chain) > len(direct) + 1:
            raise HeadError(
                f"the heads in {name!r} replace each other in a circle"
                f" ({' <- '.join(map(str, chain[:8]))}), so none of them stays; is it a log of one"
                " run?"
            )
    return chain[-1]
