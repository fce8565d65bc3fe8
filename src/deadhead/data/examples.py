"""The examples of a task: texts with labels or paradigms, before any tokenizer sees them."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np

from deadhead.display import Brief
from deadhead.errors import DataError


@dataclass(frozen=True, eq=False, repr=False)
class Examples(Brief):
    """Texts to judge a model on, a tuple of one or two texts per example.

    Attributes:
        texts: `(sentence,)`, `(sentence, second sentence)` or `(acceptable, unacceptable)`.
        labels: one label per example, as an int or a name; None where the task has none.
        groups: paradigm of each example; None where there is one only.
        origins: where each example was read (file and row), to tell rows that are given twice.
    """

    texts: Sequence[tuple[str, ...]]
    labels: Sequence[Hashable] | None = None
    groups: Sequence[str] | None = None
    origins: Sequence[tuple[str, int]] | None = None

    def __post_init__(self) -> None:
        if len(self.texts) == 0:
            raise DataError("there are no examples; give at least one")
        for name in ("labels", "groups", "origins"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.texts):
                raise DataError(
                    f"{len(column)} {name} were given for {len(self.texts)} examples; give one each"
                )

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """blake2b of each example's texts, unicode-normalized (NFC) and stripped; no labels."""
        return tuple(_digest(*texts) for texts in self.texts)

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that change with any text, label or order."""
        labels = self.labels if self.labels is not None else [""] * len(self)
        rows = (key + str(label).encode() for key, label in zip(self.keys, labels, strict=True))
        return blake2b(b"\0".join(rows), digest_size=6).hexdigest()

    def take(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """Return the examples at `rows`, in that order."""

        def pick(column):
            return None if column is None else [column[i] for i in rows]

        return Examples(
            [self.texts[i] for i in rows], pick(self.labels), pick(self.groups), pick(self.origins)
        )

    def sample(self, n: int | None, seed: int | Sequence[int] = 0) -> Examples:
        """Draw `n` examples without replacement, evenly over the groups, in their old order.

        A group with too few examples gives all it has and the others make up for it; the odd ones
        go to groups drawn at random. `None`, or more than there are, takes all.
        """
        if n is not None and n < 1:
            raise DataError(f"a sample of {n!r} examples is empty; give 1 or more, or None for all")
        if n is None or n >= len(self):
            return self
        rng = np.random.default_rng(seed)
        groups = np.array(self.groups if self.groups is not None else [""] * len(self))
        names = np.unique(groups)
        quotas = _even_quotas([int((groups == name).sum()) for name in names], n, rng)
        chosen = [
            rng.choice(np.flatnonzero(groups == name), quota, replace=False)
            for name, quota in zip(names, quotas, strict=True)
        ]
        return self.take(np.sort(np.concatenate(chosen)))


def _even_quotas(sizes: Sequence[int], n: int, rng: np.random.Generator) -> list[int]:
    quotas = np.zeros(len(sizes), dtype=int)
    room = np.array(sizes)
    while n > 0:
        open_ = np.flatnonzero(room > 0)
        share = n // len(open_)
        if share == 0:
            open_, share = rng.permutation(open_)[:n], 1
        given = np.minimum(room[open_], share)
        quotas[open_] += given
        room[open_] -= given
        n -= int(given.sum())
    return quotas.tolist()


def _digest(*texts: str) -> bytes:
    normal = (unicodedata.normalize("NFC", text).strip() for text in texts)
    return blake2b("\x1f".join(normal).encode("utf-8", "surrogatepass"), digest_size=12).digest()
