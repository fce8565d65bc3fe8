"""The examples of a task, before any tokenizer sees them, and sets that share none."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from deadhead.display import Brief
from deadhead.errors import DataError

# of the smaller set; a data set that was divided with care shares less than this by chance
TOLERATED = 0.01

# each pair gives way on the left
_PAIRS = (
    ("selection", "test"),
    ("calibration", "test"),
    ("calibration", "selection"),
    ("training", "test"),
    ("training", "selection"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Examples(Brief):
    """What to judge a model on: a tuple of one or two texts per example, or of a file.

    Attributes:
        texts: `(sentence,)`, `(sentence, second sentence)` or `(acceptable, unacceptable)`; of an
            image or a recording `(media,)`, see `Media`.
        labels: one label per example, as an int or a name; None where the task has none.
        groups: paradigm of each example; None where there is one only.
        origins: where each example was read (file and row), to tell rows that are given twice.
    """

    texts: Sequence[tuple[Any, ...]]
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
        """blake2b of each example's texts, unicode-normalized (NFC) and stripped; no labels.

        Of files it is that of their bytes: two copies of a file are one example.
        """
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


def _even_quotas(sizes: Sequence[int], n: int, rng: np.random.Generator) -> np.ndarray:
    quotas = np.zeros(len(sizes), dtype=int)
    while (left := n - quotas.sum()) > 0:
        open_ = np.flatnonzero(quotas < sizes)
        share = left // len(open_)
        if share == 0:
            open_, share = rng.permutation(open_)[:left], 1
        quotas[open_] = np.minimum(quotas[open_] + share, np.array(sizes)[open_])
    return quotas


def _digest(*texts: Any) -> bytes:
    digests = [text.digest for text in texts if not isinstance(text, str)]
    if digests:
        return digests[0]
    normal = (unicodedata.normalize("NFC", text).strip() for text in texts)
    return blake2b("\x1f".join(normal).encode("utf-8", "surrogatepass"), digest_size=12).digest()


def keep_disjoint(
    sets: dict[str, Examples], *, allow_overlap: bool = False
) -> tuple[dict[str, Examples], list[str]]:
    """Return sets that share no example, and notes on what was removed.

    Examples are equal if their texts are, unicode-normalized and stripped; labels do not count.
    Real data sets repeat a few short texts between their splits ("no" in SST-2), so sets that share
    less than 1% of the smaller one lose the shared examples from calibration before selection
    before test; the test set is never changed. So do sets that were split from one file, however
    often it repeats a text. The same row of the same file in two sets, or a larger share of two
    files, is a mistake and is refused.
    """
    sets, notes = dict(sets), []
    for left, right in _PAIRS:
        if left not in sets or right not in sets:
            continue
        shared = set(sets[left].keys) & set(sets[right].keys)
        if not shared:
            continue
        quoted = _quote(sets[left], shared)
        same_rows = set(sets[left].origins or ()) & set(sets[right].origins or ())
        smaller = min(len(set(sets[left].keys)), len(set(sets[right].keys)))
        are = f"{len(shared)} example{'s are' if len(shared) > 1 else ' is'}"
        keep = [i for i, key in enumerate(sets[left].keys) if key not in shared]
        files = {file for role in (left, right) for file, _ in sets[role].origins or [(role, 0)]}
        many = len(shared) >= TOLERATED * smaller and len(files) != 1
        if allow_overlap:
            notes.append(f"overlap allowed: {are} in both {left} and {right}, e.g. {quoted}")
        elif same_rows or many or not keep:
            reason = "the same rows are given twice" if same_rows else "as the text"
            raise DataError(
                f"{are} in both {left} and {right} ({reason}), e.g. {quoted};"
                " give disjoint sets, or allow it (allow_overlap=True, --allow-overlap)"
            )
        else:
            notes.append(
                f"removed {len(sets[left]) - len(keep)} of {len(sets[left])} examples from {left},"
                f" whose text is in {right} as well, e.g. {quoted}"
            )
            sets[left] = sets[left].take(keep)
    return sets, notes


def keep_apart(
    texts: Examples,
    sets: Mapping[str, Examples],
    *,
    role: str = "training",
    allow_overlap: bool = False,
) -> tuple[Examples, list[str]]:
    """Return texts that are in neither the selection nor the test set; see `keep_disjoint`.

    Of examples with more texts than `texts` have, as minimal pairs, each counts on its own.
    """
    said: list[str] = []
    for other in ("selection", "test"):
        if other in sets:
            pair = {role: texts, other: _split(sets[other], len(texts.texts[0]))}
            pair, notes = keep_disjoint(pair, allow_overlap=allow_overlap)
            texts = pair[role]
            said += notes
    return texts, said


def _split(examples: Examples, width: int) -> Examples:
    if len(examples.texts[0]) <= width:
        return examples
    each = [((text,), row) for row, texts in enumerate(examples.texts) for text in texts]
    origins = examples.origins and [examples.origins[row] for _, row in each]
    return Examples([text for text, _ in each], origins=origins)


def _quote(examples: Examples, shared: set[bytes], width: int = 60) -> str:
    row = next(i for i, key in enumerate(examples.keys) if key in shared)
    text = " | ".join(map(str, examples.texts[row]))
    return repr(text if len(text) <= width else text[: width - 3] + "...")
