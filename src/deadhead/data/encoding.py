"""From texts to token sequences: with the model's special tokens, or in windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deadhead.data.batching import TokenSequence
from deadhead.errors import DataError
from deadhead.files import one_line

# window of a model and tokenizer that know no length
_USUAL_LENGTH = 1024


def encode(
    texts: Sequence[tuple[str, ...]], tokenizer: Any, limit: int | None
) -> list[TokenSequence]:
    """Tokenize texts, or pairs of them, with special tokens; longer ones are truncated."""
    encoded = _tokenized(
        tokenizer,
        *(list(column) for column in zip(*texts, strict=True)),
        truncation=limit is not None,
        max_length=limit,
    )
    ids = encoded["input_ids"]
    segments = encoded.get("token_type_ids", [None] * len(ids))
    return [TokenSequence(i, s) for i, s in zip(ids, segments, strict=True)]


def windows(
    texts: Sequence[str], tokenizer: Any, limit: int | None
) -> tuple[list[TokenSequence], list[int]]:
    """Tokenize texts and cut them into windows for a causal language model.

    A window starts with the beginning-of-sequence token where the tokenizer has one. A lone last
    token without a start predicts nothing and is left out.

    Returns:
        The windows, and for each the position of its text.
    """
    start = start_ids(tokenizer)
    room = max(1, (limit or _USUAL_LENGTH) - len(start))
    found = [
        (TokenSequence(start + ids[begin : begin + room]), text)
        for text, ids in enumerate(token_ids(tokenizer, texts))
        for begin in range(0, len(ids), room)
        if len(start) + len(ids[begin : begin + room]) > 1
    ]
    return [window for window, _ in found], [text for _, text in found]


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts without any special tokens."""
    return _tokenized(tokenizer, list(texts), add_special_tokens=False, truncation=False)[
        "input_ids"
    ]


def _tokenized(tokenizer: Any, *texts: list[str], **options: Any) -> Any:
    try:
        return tokenizer(*texts, return_attention_mask=False, verbose=False, **options)
    except Exception as error:  # tokenizers in Rust raise classes of their own
        raise DataError(
            f"the tokenizer fails on the texts ({one_line(error)}); check that its files are whole"
            " and belong to the model"
        ) from error


def start_ids(tokenizer: Any) -> list[int]:
    """Return the token every sequence starts with, if the tokenizer has one.

    With it the first token of a text is predicted too. Whether the tokenizer would have added it
    by itself makes no difference; nothing is added at the end.
    """
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
