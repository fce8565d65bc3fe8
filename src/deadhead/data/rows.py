"""Rows of a table: where they were read, and which columns are texts and labels."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from deadhead.data.examples import Examples
from deadhead.display import Brief
from deadhead.errors import DataError, unknown_name

GOOD, BAD, PARADIGM = "sentence_good", "sentence_bad", "UID"
PAIR_COLUMNS = {GOOD, BAD}  # what makes a table one of minimal pairs
# the first that is there is the text; of these pairs both are
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
TEXT_COLUMNS = ("sentence", "text", "sentence1", "question1", "premise", "question", "review")
LABEL_COLUMNS = ("label", "labels", "class", "target")


class Columns(NamedTuple):
    """The columns that the user named; None is found by its usual name."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    media: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Rows(Brief):
    """A table of text, and for each row where it was read.

    Attributes:
        frame: the columns.
        source: where the rows came from, for people.
        origins: (file, row) of each row, to tell rows that are given twice.
        class_names: names behind the whole numbers of a column, of `datasets` sets.
    """

    frame: pd.DataFrame
    source: str
    origins: Sequence[tuple[str, int]]
    class_names: Mapping[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        source: str,
        *,
        file: str | None = None,
        class_names: Mapping[str, list[str]] | None = None,
    ) -> Rows:
        """Take all rows of a frame as those of one file."""
        origins = [(file or source, row) for row in range(len(frame))]
        return cls(frame, source, origins, class_names or {})

    @classmethod
    def concatenate(cls, parts: Sequence[Rows], source: str) -> Rows:
        """Put the rows of several files below each other."""
        frame = pd.concat([p.frame for p in parts], ignore_index=True)
        return cls(frame, source, [o for p in parts for o in p.origins], parts[0].class_names)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [str(name) for name in self.frame.columns]

    def take(self, rows: Sequence[int], source: str | None = None) -> Rows:
        """Take the rows at these positions, in that order."""
        origins = [self.origins[row] for row in rows]
        frame = self.frame.iloc[list(rows)].reset_index(drop=True)
        return Rows(frame, source or self.source, origins, self.class_names)

    def sliced(self, rows: slice | None, spec: str, source: str | None = None) -> Rows:
        """Take the rows that `FILE[0:800]` names; `spec` is for messages."""
        if rows is None:
            return self
        start, stop, _ = rows.indices(len(self))
        if start >= stop:
            raise DataError(f"{spec!r} takes none of the {len(self)} rows of {self.source!r}")
        return self.take(range(start, stop), source)

    def first_column(self, names: Iterable[str]) -> str | None:
        """Find the first of `names` that is a column."""
        return next((name for name in names if name in self.columns), None)

    def values(self, column: str) -> list[Hashable]:
        """Return a column as Python values."""
        if column not in self.columns:
            raise unknown_name("column", column, self.columns)
        values = self.frame[column]
        self._refuse(column, values.isna().tolist(), "missing")
        return values.tolist()

    def texts(self, column: str, *, blank: bool = True) -> list[str]:
        """Return a column of text, of which none may be blank unless `blank`."""
        values: list[Any] = self.values(column)
        self._refuse(column, [not isinstance(v, str) for v in values], "not text")
        self._refuse(column, [not blank and not v.strip() for v in values], "blank")
        return values

    def lists(self, column: str, *, of: type = str) -> list[tuple[Any, ...]]:
        """Return a column of lists, each of one type."""
        values = [tuple(v) if isinstance(v, list | np.ndarray) else v for v in self.values(column)]
        wrong = [not isinstance(v, tuple) or not all(isinstance(x, of) for x in v) for v in values]
        self._refuse(column, wrong, f"no list of {of.__name__}")
        return values  # type: ignore[return-value]

    def _refuse(self, column: str, wrong: Sequence[bool], what: str) -> None:
        if any(wrong):
            at = list(wrong).index(True)
            (file, row), value = self.origins[at], self.frame[column].tolist()[at]
            raise DataError(
                f"row {row} of {file!r} has {value!r:.80} as {column!r}, which is {what}; correct"
                f" or remove such rows ({sum(wrong)} of {len(self)}), or choose another column of"
                f" {', '.join(self.columns)}"
            )


def rows_of(data, source: str, split: str) -> Rows:
    """Take the rows of a data set, with the names of its classes."""
    names = {
        column: list(each.names)
        for column, feature in (data.features or {}).items()
        for each in [getattr(feature, "feature", feature)]  # of a list of classes
        if type(each).__name__ == "ClassLabel"
    }
    label = f"{source} ({split})" if split else source
    return Rows.of(data.to_pandas(), label, file=f"{source}:{split}", class_names=names)


def label_column(rows: Rows, columns: Columns, usual: Iterable[str] = LABEL_COLUMNS) -> str | None:
    """Return the column of the labels that is named, or one with a usual name."""
    return columns.label or rows.first_column(usual)


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
        texts = list(zip(*(rows.texts(c, blank=False) for c in named), strict=True))
        return Examples(texts, labels=read_labels(rows, label), origins=rows.origins)
    texts = list(zip(*(rows.texts(column) for column in named), strict=True))
    filled = [row for row, parts in enumerate(texts) if all(part.strip() for part in parts)]
    if not filled:
        raise DataError(f"all {len(rows)} texts of {rows.source!r} are blank; give some text")
    return Examples(texts, origins=rows.origins).take(filled)


@dataclass(frozen=True)
class NamedLabel:
    """A class of a `datasets` set: its index there, and its name."""

    index: Hashable
    name: str


def read_labels(rows: Rows, column: str) -> list[Any]:
    """Read a column of labels, with the names that a `datasets` set has for its whole numbers."""
    values = [tuple(v) if isinstance(v, list | np.ndarray) else v for v in rows.values(column)]
    names = rows.class_names.get(column)
    if names is None:
        return values
    # an unlabeled row of a `datasets` set is -1 and has no name
    known: dict[Hashable, str] = dict(enumerate(names))

    def named(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(named(each) for each in value)
        return NamedLabel(value, known[value]) if value in known else value

    return [named(value) for value in values]


def targets_of(labels: Sequence[Any], config: Any) -> torch.Tensor:
    """Turn labels into what the model is trained with, by its `problem_type`.

    Shape: (examples,) classes, or numbers of a regression; (examples, labels) of a multi-label
    model, 0 or 1 each, from lists of as many numbers or of names.
    """
    kind = getattr(config, "problem_type", None)
    if kind == "multi_label_classification":
        wanted = f"a list of {config.num_labels} numbers, 0 or 1, or of names of its labels"
        found: Any = [_marked(label, config) for label in labels]
        right = [row is not None for row in found]
    elif kind == "regression" and config.num_labels > 1:
        wanted = f"a list of {config.num_labels} numbers"
        lists = [x if isinstance(x, tuple) and len(x) == config.num_labels else () for x in labels]
        found = [[_number(part) for part in row] or None for row in lists]
        right = [row and all(x is not None and math.isfinite(x) for x in row) for row in found]
    elif kind == "regression" or config.num_labels == 1:
        wanted, found = "a number", [_number(label) for label in labels]
        right = [value is not None and math.isfinite(value) for value in found]
    else:
        classes = {label: class_of(label, config) for label in dict.fromkeys(labels)}
        return torch.tensor([classes[label] for label in labels])
    if not all(right):
        row = [bool(each) for each in right].index(False)
        given = list(labels[row]) if isinstance(labels[row], tuple) else labels[row]
        raise DataError(
            f"label {given!r} of example {row} does not fit the model, whose problem_type is"
            f" {kind or 'regression'!r}; write {wanted} in each row, or leave the labels out"
        )
    return torch.tensor(found, dtype=torch.float32)


def _marked(label: Any, config: Any) -> list[float] | None:
    """Read the labels of one text as 0 or 1 for each label of the model; None if they are wrong."""
    if not isinstance(label, tuple):
        return None
    numbers = [_number(part) for part in label]
    if len(label) == config.num_labels and all(
        number is not None and 0 <= number <= 1 for number in numbers
    ):
        return [float(number) for number in numbers if number is not None]
    known = {str(name).casefold(): int(i) for name, i in (config.label2id or {}).items()}
    names = [str(getattr(part, "name", part)).strip().casefold() for part in label]
    if not all(name in known for name in names):
        return None
    marked = {known[name] for name in names}
    return [float(index in marked) for index in range(config.num_labels)]


def class_of(label: Any, config: Any) -> int:
    """Find the class index that a label of the data means to the model.

    Of a label with a name and an index, the name goes first: data sets and models number the same
    classes differently (MNLI).
    """
    n, label2id = config.num_labels, dict(config.label2id or {})
    if n < 2:
        raise DataError(f"the model has {n} label; classification needs 2 or more classes")
    if isinstance(label, tuple):
        raise DataError(
            f"label {list(label)!r} is a list, and the model has one class per example; use a"
            " model whose config says problem_type='multi_label_classification'"
        )
    name, number = (label.name, label.index) if isinstance(label, NamedLabel) else (label, label)
    text = str(name).strip()
    if text in label2id:
        return int(label2id[text])
    folded = [index for known, index in label2id.items() if known.casefold() == text.casefold()]
    if len(folded) == 1:
        return int(folded[0])
    index = _number(number)
    if index is not None and index in range(n):
        return int(index)
    if index == -1:
        raise DataError("label -1 marks a hidden test label; judge on a split with labels")
    names = ", ".join(label2id)
    raise DataError(
        f"label {name!r} is not known to the model, which has {names}; write one of these or"
        f" 0 to {n - 1} in the data, or set label2id in the model's config"
    )


def _number(label: Any) -> float | None:
    try:
        return float(label)
    except (TypeError, ValueError, OverflowError):
        return None
