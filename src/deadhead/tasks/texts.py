"""Text without labels, to score and train on: tokenised as a task's is, judged by nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deadhead.data.batching import Batch
from deadhead.data.examples import Examples
from deadhead.data.overlap import keep_disjoint
from deadhead.data.rows import PAIR_COLUMNS, Columns, Rows
from deadhead.errors import DataError
from deadhead.tasks.classification import LABEL_COLUMNS, ClassificationTask, text_columns
from deadhead.tasks.minimal_pairs import GOOD, MinimalPairsTask
from deadhead.tasks.perplexity import PerplexityTask
from deadhead.tasks.task import BatchedTask


class Sentences(ClassificationTask):
    """What a classifier reads, of no known class."""

    def __init__(self, examples: Examples, tokenizer: Any, **options: Any) -> None:
        unlabelled = replace(examples, labels=[0] * len(examples))  # nobody looks at them
        super().__init__(unlabelled, tokenizer, **options)

    def batches(self) -> list[Batch]:
        """Return padded batches without `labels`; see `BatchedTask.batches`."""
        return [{k: v for k, v in b.items() if k != "labels"} for b in super().batches()]


def is_judged(rows: Rows, columns: Columns, kind: type[BatchedTask]) -> bool:
    """Whether rows have what a kind of task judges by: labels, or the worse of two sentences."""
    if issubclass(kind, ClassificationTask):
        label = columns.label or rows.first_column(LABEL_COLUMNS)
        return label is not None and label in rows.columns
    return not issubclass(kind, MinimalPairsTask) or PAIR_COLUMNS.issubset(rows.columns)


def text_kind(kind: type[BatchedTask]) -> type[BatchedTask]:
    """Return what text for the models of a kind of task is opened as."""
    return Sentences if issubclass(kind, ClassificationTask) else PerplexityTask


def read_texts(rows: Rows, columns: Columns) -> Examples:
    """Find the texts, or pairs of texts, in rows of a table; rows with a blank one are left out.

    Raises:
        DataError: no column can be told to have them, or all are blank.
        UnknownNameError: there is no such column.
    """
    if columns.text is None and PAIR_COLUMNS.issubset(rows.columns):
        columns = Columns(text=GOOD)
    label = columns.label or rows.first_column(LABEL_COLUMNS)
    named = [column for column in text_columns(rows, columns, label) if column is not None]
    texts = list(zip(*(rows.texts(column) for column in named), strict=True))
    filled = [row for row, parts in enumerate(texts) if all(part.strip() for part in parts)]
    if not filled:
        raise DataError(f"all {len(rows)} texts of {rows.source!r} are blank; give some text")
    return Examples(texts, origins=rows.origins).take(filled)


def keep_apart(
    texts: Examples,
    sets: Mapping[str, Examples],
    *,
    role: str = "training",
    allow_overlap: bool = False,
) -> tuple[Examples, list[str]]:
    """Return texts that are in neither the selection nor the test set; see `keep_disjoint`.

    Of examples with more texts than `texts` have, as minimal pairs, each counts on its own.

    Raises:
        DataError: they overlap, and `allow_overlap` is false.
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
