"""Several criteria as one: the mean of their ranks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deadhead.criteria.base import criterion_class, criterion_names
from deadhead.errors import UnknownNameError
from deadhead.types import HeadScores


def parts_of(spec: str) -> list[str]:
    """Return the criteria that a spec names: `taylor+magnitude` names two.

    A `+` that no criterion's name follows is part of an option: of a path, or of `1e+2`.

    Raises:
        UnknownNameError: there is none of one of the names, or a name is empty.
    """
    pieces = spec.split("+")
    parts: list[str] = []
    for piece in pieces:
        name = piece.split(":")[0]
        if parts and ":" in parts[-1] and name not in criterion_names():
            parts[-1] += f"+{piece}"
            continue
        if not piece and len(pieces) > 1:
            raise UnknownNameError(
                f"criterion {spec!r} has an empty part; join names by '+', as in taylor+magnitude"
            )
        criterion_class(name)
        parts.append(piece)
    return parts


def combined(spec: str, found: Mapping[str, HeadScores]) -> HeadScores:
    """Return the scores of a spec: those of its one criterion, or the mean of the ranks of several.

    Ranks run over all scored heads, from 0 (least important) to 1; ties share the mean of their
    ranks. A head that one of the criteria did not score is not scored.
    """
    parts = parts_of(spec)
    if len(parts) == 1:
        return found[spec]
    ranks = np.mean([_ranks(found[part]) for part in parts], axis=0)
    rows = np.split(ranks, np.cumsum(found[parts[0]].counts)[:-1])
    return HeadScores(tuple(rows), spec, {part: found[part].provenance for part in parts})


def _ranks(scores: HeadScores) -> np.ndarray:
    from scipy.stats import rankdata  # slow to import

    flat = np.concatenate(scores.values)
    ranks = rankdata(flat, nan_policy="omit")
    return (ranks - 1) / max(1, np.count_nonzero(~np.isnan(flat)) - 1)
