"""Text without labels, to score and train on: tokenized as a task's is, judged by nothing."""

from __future__ import annotations

from collections.abc import Mapping

from deadhead.data.examples import Examples
from deadhead.data.overlap import keep_disjoint
from deadhead.data.rows import PAIR_COLUMNS, Columns, Rows
from deadhead.data.texts import label_column
from deadhead.tasks.minimal_pairs import MinimalPairsTask
from deadhead.tasks.perplexity import PerplexityTask
from deadhead.tasks.sentences import Sentences
from deadhead.tasks.task import BatchedTask


def is_judged(rows: Rows, columns: Columns, kind: type[BatchedTask]) -> bool:
    """Whether rows have what a kind of task judges by: labels, or the worse of two sentences."""
    if issubclass(kind, Sentences):
        return label_column(rows, columns) in rows.columns
    return not issubclass(kind, MinimalPairsTask) or PAIR_COLUMNS.issubset(rows.columns)


def text_kind(kind: type[BatchedTask]) -> type[BatchedTask]:
    """Return what text for the models of a kind of task is opened as."""
    return Sentences if issubclass(kind, Sentences) else PerplexityTask


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
