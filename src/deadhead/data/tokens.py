"""Texts as token sequences, and these in padded batches: by length, within a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deadhead.data.batches import Batch, unknown_token
from deadhead.display import Brief
from deadhead.errors import DataError
from deadhead.files import one_line

# per batch, padding included; `BatchedTask` says why
MAX_TOKENS = 2048
BUSY_TOKENS = 256  # a batch of fewer leaves two CPU threads idle
MUCH_SHORTER = 0.8
USUAL_LENGTH = 1024  # window of a model and tokenizer that know no length

# these count positions from pad_token_id + 1, so that many fewer tokens fit
_OFFSET_POSITIONS = {"camembert", "roberta", "roberta-prelayernorm", "xlm-roberta"}


@dataclass(frozen=True)
class TokenSequence:
    """The token ids of one text, with its segment ids where the model takes them."""

    ids: Sequence[int]
    segments: Sequence[int] | None = None


def check_batching(batch_size: int | None, max_tokens: int | None = None) -> None:
    """Refuse sizes that make no batch."""
    for what, given in (("batch_size", batch_size), ("max_tokens", max_tokens)):
        if given is not None and (not isinstance(given, int) or given < 1):
            raise DataError(f"{what} {given!r} makes no batch; give 1 or more, or None")


def length_runs(
    lengths: Sequence[int], *, batch_size: int | None = None, max_tokens: int = MAX_TOKENS
) -> Iterator[slice]:
    """Cut lengths, sorted longest first, into runs of at most `max_tokens` padded tokens.

    A run that keeps the processor busy also ends where the next sequence is much shorter than its
    first: small sets would be half padding. A sequence beyond the budget is a run of its own.
    """
    start = 0
    while start < len(lengths):
        longest = max(1, lengths[start])
        fit = max(1, max_tokens // longest)
        stop = min(len(lengths), start + (min(fit, batch_size) if batch_size else fit))
        busy = start + max(1, min(BUSY_TOKENS, max_tokens) // longest)
        short = (i for i in range(busy, stop) if lengths[i] < MUCH_SHORTER * longest)
        stop = next(short, stop)
        yield slice(start, stop)
        start = stop


@dataclass(frozen=True, repr=False)
class Packed(Brief):
    """A padded batch and which sequences its rows are."""

    rows: np.ndarray
    batch: Batch


def pack(
    sequences: Sequence[TokenSequence],
    pad_id: int,
    *,
    batch_size: int | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[Packed]:
    """Sort sequences by length, cut them into batches by the token budget, and pad these."""
    # longest first, so that too large a batch fails at once
    order = np.argsort([-len(s.ids) for s in sequences], kind="stable")
    ordered = [sequences[i] for i in order]
    lengths = [len(s.ids) for s in ordered]
    runs = length_runs(lengths, batch_size=batch_size, max_tokens=max_tokens)
    return [Packed(order[run], pad(ordered[run], pad_id)) for run in runs]


def pad(sequences: Sequence[TokenSequence], pad_id: int) -> Batch:
    """Pad sequences on the right into one batch of (batch, tokens) tensors."""
    lengths = torch.tensor([len(s.ids) for s in sequences])

    def padded(rows: list[Sequence[int]], value: int) -> torch.Tensor:
        tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    ids = padded([s.ids for s in sequences], pad_id)
    batch = {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
    }
    if sequences[0].segments is not None:
        batch["token_type_ids"] = padded([s.segments or () for s in sequences], 0)
    return batch


def refuse_unknown_tokens(sequences: Sequence[TokenSequence], config) -> None:
    """Refuse sequences that the tokenizer of another model made."""
    texts = config.get_text_config() if hasattr(config, "get_text_config") else config
    known = getattr(texts, "vocab_size", None)
    most = max((max(s.ids) for s in sequences if s.ids), default=0)
    if known is not None and most >= known:
        raise DataError(unknown_token(most, known))


def padding_id(tokenizer, config) -> int:
    """Find the id to pad with: the model's own, else the tokenizer's, else any (it is masked)."""
    # the model's first: some read positions or the last token off `input_ids != pad_token_id`
    for found in (getattr(config, "pad_token_id", None), tokenizer.pad_token_id):
        if found is not None and found >= 0:
            return int(found)
    return int(tokenizer.eos_token_id or 0)


def positions_of(config: Any) -> int | None:
    """Return how many tokens fit the positions of a model; None if it does not say."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and getattr(config, "model_type", "") in _OFFSET_POSITIONS:
        positions -= (config.pad_token_id or 0) + 1
    return positions


def context_length(tokenizer, config, asked: int | None = None) -> int | None:
    """Find how many tokens fit the model; `asked` narrows it. None is no known bound."""
    positions = positions_of(config)
    if asked is not None:
        if asked < 2:
            raise DataError(f"max_length {asked!r} leaves nothing to judge; give 2 or more")
        if positions is not None and asked > positions:
            raise DataError(
                f"max_length {asked!r} is more than the model's {positions} positions;"
                f" give {positions} or less"
            )
        return asked
    # tokenizers that do not know their length say 1e30
    length = tokenizer.model_max_length
    if length is not None and not (isinstance(length, (int, float)) and length >= 1):
        raise DataError(
            f"the tokenizer's model_max_length is {length!r:.80}; write a number of tokens, or"
            " null, in tokenizer_config.json"
        )
    known = [n for n in (positions, length) if n is not None and n < 1e9]
    return int(min(known)) if known else None


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
    token without a start predicts nothing and is left out. Each comes with its text's position.
    """
    start = start_ids(tokenizer)
    room = max(1, (limit or USUAL_LENGTH) - len(start))
    found = [
        (TokenSequence(start + ids[begin : begin + room]), text)
        for text, ids in enumerate(token_ids(tokenizer, texts))
        for begin in range(0, len(ids), room)
        if len(start) + len(ids[begin : begin + room]) > 1
    ]
    return [window for window, _ in found], [text for _, text in found]


@dataclass(frozen=True)
class TextWindow:
    """A part of a text that fits the model, and where its tokens come from.

    Attributes:
        sequence: its tokens, special ones included.
        owner: which text it is of.
        words: of each token the number of its word; None of special ones.
        offsets: of each token where it begins and ends in its text, in characters.
        texts: of each token which text of a pair it is of, 0 or 1; None of special ones.
    """

    sequence: TokenSequence
    owner: int
    words: Sequence[int | None]
    offsets: Sequence[tuple[int, int]]
    texts: Sequence[int | None]


def text_windows(
    first: Sequence[Any],
    *second: Sequence[str],
    tokenizer: Any,
    limit: int | None,
    stride: int = 0,
    words: bool = False,
) -> list[TextWindow]:
    """Tokenize texts with special tokens, and cut those that are too long into several windows.

    Args:
        first: texts, or lists of their words.
        second: second texts of pairs, which are those that are cut.
        tokenizer: a fast one: it says where its tokens come from.
        limit: tokens per window at most.
        stride: tokens that neighboring windows share.
        words: whether texts are given as lists of words.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"a {type(tokenizer).__name__} does not say which words its tokens come from; give a"
            " fast tokenizer (with tokenizer.json)"
        )
    cut = {"truncation": "only_second" if second else True, "max_length": limit}
    encoded = _tokenized(
        tokenizer,
        *(list(column) for column in (first, *second)),
        is_split_into_words=words,
        return_offsets_mapping=True,
        **({} if limit is None else {**cut, "stride": stride, "return_overflowing_tokens": True}),
    )
    owners = encoded.get("overflow_to_sample_mapping", range(len(first)))
    has_segments = "token_type_ids" in encoded
    return [
        TextWindow(
            TokenSequence(each.ids, each.type_ids if has_segments else None),
            int(owner),
            each.word_ids,
            each.offsets,
            each.sequence_ids,
        )
        for each, owner in zip(encoded.encodings, owners, strict=True)
    ]


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts without any special tokens."""
    found = _tokenized(tokenizer, list(texts), add_special_tokens=False, truncation=False)
    return found["input_ids"]


def _tokenized(tokenizer: Any, *texts: list[str], **options: Any) -> Any:
    try:
        return tokenizer(*texts, return_attention_mask=False, verbose=False, **options)
    except Exception as error:  # tokenizers in Rust raise classes of their own
        raise DataError(
            f"the tokenizer fails on the texts ({one_line(error)}); check that its files are whole"
            " and belong to the model"
        ) from error


def start_ids(tokenizer: Any) -> list[int]:
    """Return the token every sequence starts with, so that the first of a text is predicted too."""
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
