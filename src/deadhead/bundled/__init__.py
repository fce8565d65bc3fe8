"""Two small trained models and the text they are judged on: the first run needs no network.

`encoder` classifies the sentiment of synthetic sentences; `decoder` is a causal language model of a
small English grammar, judged on minimal pairs. `scripts/train_bundled.py` makes both again.

The splits are disjoint for any `n` and `seed`, because the text itself decides its split: a
sentence (for a minimal pair, its good sentence) belongs where its hash puts it. So no good sentence
of a test pair is ever in `text("train", ...)`.
"""

from collections.abc import Callable
from hashlib import blake2b
from itertools import cycle
from pathlib import Path
from random import Random
from typing import TypeVar

from deadhead.bundled import agreement
from deadhead.bundled import sentiment as _sentiment
from deadhead.errors import DataError, unknown_name

LABELS = _sentiment.LABELS
MODELS = ("encoder", "decoder")
PARADIGMS = agreement.PARADIGMS
# a split owns these of the 16 buckets that the hash of a text falls into
SPLITS = {
    "train": range(0, 10),
    "calibration": range(10, 12),
    "selection": range(12, 14),
    "test": range(14, 16),
}

# draws in a row without a new row after which we say that the grammar has no more
PATIENCE = 20_000

_Row = TypeVar("_Row")


def model_path(name: str) -> Path:
    """Find the folder of a bundled model."""
    if name not in MODELS:
        raise unknown_name("bundled model", name, MODELS)
    return Path(__file__).parent / name


def split_of(text: str) -> str:
    """Say which split a text belongs to, on any machine and in any process."""
    bucket = blake2b(text.encode(), digest_size=8).digest()[0] % 16
    return next(split for split, buckets in SPLITS.items() if bucket in buckets)


def sentiment(split: str, n: int, seed: int = 0) -> list[dict]:
    """Make labeled sentences: `{"sentence": str, "label": int}`, the label an index into `LABELS`.

    The rows are unique and take the labels in turn, so every prefix is balanced.
    """
    makers = [_labeled(label) for label in range(len(LABELS))]
    return _draw(makers, lambda row: row["sentence"], split, n, seed)


def minimal_pairs(split: str, n: int, seed: int = 0) -> list[dict]:
    """Make minimal pairs: `{"sentence_good": str, "sentence_bad": str, "UID": str}` as in BLiMP.

    The rows are unique and take the paradigms in turn, so every prefix is balanced.
    """
    makers = [_paired(uid) for uid in PARADIGMS]
    return _draw(makers, lambda row: row["sentence_good"], split, n, seed)


def text(split: str, n: int, seed: int = 0) -> list[str]:
    """Make grammatical sentences of the decoder's grammar, each once."""
    return _draw([agreement.sentence], str, split, n, seed)


def _labeled(label: int) -> Callable[[Random], dict]:
    def make(rng: Random) -> dict:
        while True:
            sentence, found = _sentiment.example(rng)
            if found == label:
                return {"sentence": sentence, "label": label}

    return make


def _paired(uid: str) -> Callable[[Random], dict]:
    def make(rng: Random) -> dict:
        good, bad = agreement.pair(rng, uid)
        return {"sentence_good": good, "sentence_bad": bad, "UID": uid}

    return make


def _draw(
    makers: list[Callable[[Random], _Row]],
    key: Callable[[_Row], str],
    split: str,
    n: int,
    seed: int,
) -> list[_Row]:
    """Take rows from the makers in turn, each key once and only those of the split."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if n < 0:
        raise DataError(f"cannot make n={n!r} rows: n must be 0 or more; ask for at least 0")
    rng = Random(seed)
    rows: list[_Row] = []
    seen: set[str] = set()
    for make in cycle(makers):
        if len(rows) == n:
            return rows
        for _ in range(PATIENCE):
            row = make(rng)
            if key(row) not in seen and split_of(key(row)) == split:
                seen.add(key(row))
                rows.append(row)
                break
        else:
            raise DataError(
                f"cannot make n={n!r} unique rows for {split!r}: the grammar ran dry at {len(rows)}"
                f"; ask for {len(rows)} or fewer"
            )
    return rows
