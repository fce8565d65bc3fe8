"""What a label in the data means to a classifier."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deadhead.data.rows import Rows
from deadhead.errors import DataError


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
    return [NamedLabel(v, known[v]) if v in known else v for v in values]


def targets_of(labels: Sequence[Any], config: Any) -> torch.Tensor:
    """Turn labels into what the model is trained with, by its `problem_type`.

    Shape: (examples,) classes, or numbers of a regression; (examples, labels) of a multi-label
    model, 0 or 1 each, from lists of as many numbers.
    """
    kind = getattr(config, "problem_type", None)
    if kind == "multi_label_classification" or (kind == "regression" and config.num_labels > 1):
        wanted = f"a list of {config.num_labels} numbers"
        lists = [x if isinstance(x, tuple) and len(x) == config.num_labels else () for x in labels]
        found: Any = [[_number(part) for part in row] or None for row in lists]
        right = [row is not None and None not in row for row in found]
    elif kind == "regression" or config.num_labels == 1:
        wanted, found = "a number", [_number(label) for label in labels]
        right = [value is not None for value in found]
    else:
        classes = {label: class_of(label, config) for label in dict.fromkeys(labels)}
        return torch.tensor([classes[label] for label in labels])
    if not all(right):
        row = right.index(False)
        given = list(labels[row]) if isinstance(labels[row], tuple) else labels[row]
        raise DataError(
            f"label {given!r} of example {row} does not fit the model, whose problem_type is"
            f" {kind or 'regression'!r}; write {wanted} in each row, or leave the labels out"
        )
    return torch.tensor(found, dtype=torch.float32)


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
