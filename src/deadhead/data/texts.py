"""Which columns of a table are texts and labels, and the texts."""

from __future__ import annotations

from deadhead.data.examples import Examples
from deadhead.data.labels import read_labels
from deadhead.data.rows import PAIR_COLUMNS, Columns, Rows
from deadhead.errors import DataError

# the first that is there is the text; of these pairs both are
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
TEXT_COLUMNS = ("sentence", "text", "sentence1", "question1", "premise", "question", "review")
LABEL_COLUMNS = ("label", "labels", "class", "target")
GOOD, BAD, PARADIGM = "sentence_good", "sentence_bad", "UID"


def label_column(rows: Rows, columns: Columns) -> str | None:
    """Return the column of the labels: the one that is named, or one with a usual name."""
    return columns.label or rows.first_column(LABEL_COLUMNS)


def text_columns(rows: Rows, columns: Columns, label: str | None) -> tuple[str, str | None]:
    """Return the columns of the text and of the second text, if there is one."""
    if columns.text is not None:
        return columns.text, columns.text_pair
    if columns.text_pair is None:
        for pair in TEXT_PAIRS:
            if set(pair) <= set(rows.columns):
                return pair
    text = rows.first_column(name for name in TEXT_COLUMNS if name != columns.text_pair)
    if text is not None:
        return text, columns.text_pair
    others = [name for name in rows.columns if name not in (label, columns.text_pair)]
    if len(others) != 1:
        raise DataError(
            f"cannot tell which column of {rows.source!r} is the text; it has"
            f" {', '.join(rows.columns)}; name one with text_column"
        )
    return others[0], columns.text_pair


def read_texts(rows: Rows, columns: Columns, *, labels: bool = False) -> Examples:
    """Read the texts, or pairs of texts, of a table; rows with a blank one are left out.

    Of minimal pairs it reads the acceptable sentences. With `labels`, it reads these too, if there
    is a column of them; then no text may be blank.
    """
    if columns.text is None and PAIR_COLUMNS.issubset(rows.columns):
        columns = Columns(text=GOOD)
    label = label_column(rows, columns)
    chosen = text_columns(rows, columns, label)
    named = [column for column in chosen if column is not None]
    if labels and label is not None:
        texts = list(zip(*(rows.filled_texts(column) for column in named), strict=True))
        return Examples(texts, labels=read_labels(rows, label), origins=rows.origins)
    texts = list(zip(*(rows.texts(column) for column in named), strict=True))
    filled = [row for row, parts in enumerate(texts) if all(part.strip() for part in parts)]
    if not filled:
        raise DataError(f"all {len(rows)} texts of {rows.source!r} are blank; give some text")
    return Examples(texts, origins=rows.origins).take(filled)
