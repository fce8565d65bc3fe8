"""Which kind of task rows are for a model, if the user names none."""

from __future__ import annotations

from typing import Any

from deadhead.data.examples import Examples
from deadhead.data.given import check_tokenizer
from deadhead.data.media import media_in
from deadhead.data.readers import feature_extractor_in, image_processor_in, tokenizer_in
from deadhead.data.rows import PAIR_COLUMNS, Columns, Rows, read_texts
from deadhead.models.purpose import Purpose
from deadhead.tasks.embeddings import EmbeddedTexts, EmbeddingsTask
from deadhead.tasks.language_models import PerplexityTask, SequenceLosses
from deadhead.tasks.media import Images, Recordings
from deadhead.tasks.sentences import Sentences
from deadhead.tasks.task import KINDS, BatchedTask

# kinds of labels for each text, of which a model's config fits one
OF_LABELS = ("classification", "regression", "multi_label")
# kinds of models that do one thing; of a model whose purpose is not known, columns decide
OF_PURPOSE = ("multiple_choice", "question_answering", "seq2seq", "token_classification")


# what data without labels is opened as, where nothing then judges
UNJUDGED = (EmbeddedTexts, Images, Recordings, Sentences)


def infer_kind(
    rows: Rows, columns: Columns, purpose: Purpose = "unknown", config: Any = None
) -> str:
    """Read the kind of task off what the model is made for, its config and the columns."""
    if PAIR_COLUMNS.issubset(rows.columns):
        return "minimal_pairs"
    media = media_in(rows, columns.media)
    if media is not None:
        return "image_classification" if media[0] == "image" else "speech_recognition"
    if purpose in (*OF_PURPOSE, "masked_lm"):
        return purpose
    if purpose == "other" and config is not None and EmbeddingsTask.unfit(config) is None:
        return "embeddings"
    fits = [] if config is None else [k for k in OF_LABELS if KINDS[k].unfit(config) is None]
    labels = fits[0] if fits else "classification"
    if purpose in ("other", "unknown") and columns == Columns():
        known = [kind for kind in OF_PURPOSE if KINDS[kind].is_in(rows, columns)]
        labels = known[0] if known else labels
    if columns.label is not None or KINDS[labels].is_in(rows, columns):
        return labels
    return "perplexity" if purpose in ("causal_lm", "unknown") else labels


def text_kind(kind: type[BatchedTask]) -> type[BatchedTask]:
    """Return what data without labels for the models of a kind of task is opened as."""
    if kind.reads != "text":
        return Images if kind.reads == "image" else Recordings
    if issubclass(kind, EmbeddedTexts):
        return EmbeddedTexts
    return PerplexityTask if issubclass(kind, SequenceLosses) else Sentences


def read_plain(plain: type[BatchedTask], rows: Rows, columns: Columns) -> Examples:
    """Read data without labels: files as their kind does; any table's texts for all other kinds."""
    return read_texts(rows, columns) if plain.reads == "text" else plain.read(rows, columns)


def check_reader(kind: type[BatchedTask], reader: Any) -> None:
    """Refuse a reader that cannot read what a kind of task is of."""
    if kind.reads == "text":
        check_tokenizer(tokenizer_in(reader))
    elif kind.reads == "image":
        image_processor_in(reader)
    else:
        feature_extractor_in(reader)
