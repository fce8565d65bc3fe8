"""Several sources of texts, mixed by weight."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deadhead.data.examples import Examples, keep_apart
from deadhead.errors import DataError


@dataclass(frozen=True)
class Source:
    """Where texts come from, and how much they count beside others."""

    spec: str
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str | Path) -> Source:
        """Read `FILE` or `FILE=0.25`; a file of that very name comes first.

        Raises:
            DataError: the weight is not above 0.
        """
        found = re.fullmatch(r"(.+)=([-+.\w]+)", str(text))
        if found is None or Path(text).exists():
            return cls(str(text))
        spec, given = found.groups()
        try:
            weight = float(given)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise DataError(f"{str(text)!r}: {given!r} is no weight; write FILE=0.25, above 0")
        return cls(spec, weight)


def sources_of(given: str | Path | Sequence[str | Path] | None) -> list[Source]:
    """Read one source or several; none for None."""
    several = [given] if isinstance(given, (str, Path)) else given or ()
    return [Source.parse(each) for each in several]


def quotas_of(sources: Sequence[Source], size: int | None) -> list[int | None]:
    """Return how many of `size` examples come from each source; None: all that keep the weights."""
    total = sum(source.weight for source in sources)
    return [None if size is None else max(1, round(size * s.weight / total)) for s in sources]


@dataclass(frozen=True)
class Mixture:
    """Texts of several sources.

    Attributes:
        drawn: as many as were asked for.
        whole: as many as keep the weights.
        name: of all sources.
        notes: what was removed, and which sources had too few.
    """

    drawn: Examples
    whole: Examples
    name: str
    notes: list[str]


def mix(
    sources: Sequence[Source],
    sets: Mapping[str, Examples],
    read: Callable[[str, int | None], Examples],
    size: int | None,
    seed: int,
    *,
    allow_overlap: bool = False,
) -> Mixture:
    """Mix the calibration texts of `sets`, which are of the first source, with those of the others.

    Texts that are in the other sets too are left out, as in `keep_apart`. `read` reads the texts of
    a source, about as many as are asked for.
    """
    parts, notes = [sets["calibration"]], []
    for source, quota in list(zip(sources, quotas_of(sources, size), strict=True))[1:]:
        texts, said = keep_apart(
            read(source.spec, quota), sets, role="calibration", allow_overlap=allow_overlap
        )
        parts.append(texts)
        notes += said
    drawn, short = mixed(parts, sources, size, (seed, 0))
    whole, _ = mixed(parts, sources, None, (seed, 0))
    return Mixture(drawn, whole, " and ".join(s.spec for s in sources), [*notes, *short])


def mixed(
    parts: Sequence[Examples], sources: Sequence[Source], size: int | None, seed: Sequence[int]
) -> tuple[Examples, list[str]]:
    """Draw examples of each source by weight, without labels; and say which had too few.

    `size` None takes as many as keep the weights.
    """
    whole = min(len(part) / source.weight for part, source in zip(parts, sources, strict=True))
    quotas = quotas_of(sources, size) if size else [round(whole * s.weight) for s in sources]
    drawn, said = [], []
    for number, (part, source, quota) in enumerate(zip(parts, sources, quotas, strict=True)):
        quota = max(1, quota or 0)
        if len(part) < quota:
            said.append(
                f"{source.spec!r} has {len(part)} examples, fewer than the {quota} that its weight"
                " asks for: it counts less"
            )
        drawn.append(part.sample(quota, seed=(*seed, number)))
    texts = [text for part in drawn for text in part.texts]
    origins = [origin for part in drawn for origin in part.origins or ()]
    order = np.random.default_rng(seed).permutation(len(texts))  # so that folds have all sources
    known = Examples(texts, origins=origins if len(origins) == len(texts) else None)
    return known.take(order), said
