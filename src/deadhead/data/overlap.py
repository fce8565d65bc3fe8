"""Calibration, selection and test sets that share examples: dropped if few, refused if many."""

from __future__ import annotations

from deadhead.data.examples import Examples
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
        if allow_overlap:
            notes.append(f"overlap allowed: {are} in both {left} and {right}, e.g. {quoted}")
        elif same_rows or (len(shared) >= TOLERATED * smaller and not _one_file(sets, left, right)):
            reason = "the same rows are given twice" if same_rows else "as the text"
            raise DataError(
                f"{are} in both {left} and {right} ({reason}), e.g. {quoted};"
                " give disjoint sets, or allow it (allow_overlap=True, --allow-overlap)"
            )
        else:
            keep = [i for i, key in enumerate(sets[left].keys) if key not in shared]
            if not keep:
                raise DataError(
                    f"every text of {left} is in {right} as well, e.g. {quoted}; give more texts"
                )
            dropped = len(sets[left]) - len(keep)
            sets[left] = sets[left].take(keep)
            notes.append(
                f"removed {dropped} of {dropped + len(keep)} examples from {left}, whose text is in"
                f" {right} as well, e.g. {quoted}"
            )
    return sets, notes


def _one_file(sets: dict[str, Examples], *roles: str) -> bool:
    files = [{file for file, _ in sets[role].origins or ()} for role in roles]
    return len(files[0]) == 1 and all(of == files[0] for of in files)


def _quote(examples: Examples, shared: set[bytes], width: int = 60) -> str:
    row = next(i for i, key in enumerate(examples.keys) if key in shared)
    text = " | ".join(examples.texts[row])
    return repr(text if len(text) <= width else text[: width - 3] + "...")
