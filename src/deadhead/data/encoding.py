"""From texts to token sequences: with the model's special tokens, or in windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deadhead.data.batching import TokenSequence

# window of a model and tokenizer that know no length
_USUAL_LENGTH = 1024


def encode(
    texts: Sequence[tuple[str, ...]], tokenizer: Any, limit: int | None
) -> list[TokenSequence]:
    """Tokenize texts, or pairs of them, with special tokens; longer ones are truncated."""
    encoded = tokenizer(
        *(list(column) for column in zip(*texts, strict=True)),
        truncation=limit is not None,
        max_length=limit,
        return_attention_mask=False,
        verbose=False,
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
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=False,
        return_attention_mask=False,
        verbose=False,
    )
    return encoded["input_ids"]


def start_ids(tokenizer: Any) -> list[int]:
    """Return the token every sequence starts with, if the tokenizer has one.

    With it the first token of a text is predicted too. Whether the tokenizer would have added it
    by itself makes no difference; nothing is added at the end.
    """
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
