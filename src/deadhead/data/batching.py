"""Token sequences in padded batches: sorted by length, each batch within a token budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from deadhead.data.inputs import call, unknown_token
from deadhead.display import Brief
from deadhead.errors import DataError, ScoreError
from deadhead.models.modes import eval_mode

Batch = dict[str, torch.Tensor]

# per batch, padding included; `BatchedTask` says why
MAX_TOKENS = 2048
BUSY_TOKENS = 256  # a batch of fewer leaves two CPU threads idle
MUCH_SHORTER = 0.8

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


def length_order(sequences: Sequence[TokenSequence]) -> np.ndarray:
    """Order the sequences longest first (so that too large a batch fails at once); ties stay."""
    return np.argsort([-len(s.ids) for s in sequences], kind="stable")


def length_runs(
    lengths: Sequence[int], *, batch_size: int | None = None, max_tokens: int = MAX_TOKENS
) -> Iterator[slice]:
    """Cut lengths, sorted longest first, into runs of at most `max_tokens` padded tokens.

    A run also ends where the next sequence is much shorter than its first and the run is already
    long enough to keep the processor busy: small sets would be half padding otherwise. A single
    sequence beyond the budget is a run of its own.
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
    order = length_order(sequences)
    ordered = [sequences[i] for i in order]
    lengths = [len(s.ids) for s in ordered]
    runs = length_runs(lengths, batch_size=batch_size, max_tokens=max_tokens)
    return [Packed(order[run], pad(ordered[run], pad_id)) for run in runs]


def pad(sequences: Sequence[TokenSequence], pad_id: int) -> Batch:
    """Pad sequences on the right into one batch.

    Shape: `input_ids`, `attention_mask` and, where given, `token_type_ids`, each (batch, tokens).
    """
    width = max(len(s.ids) for s in sequences)
    ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    segments = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        n = len(sequence.ids)
        ids[row, :n], mask[row, :n] = sequence.ids, 1
        if sequence.segments is not None:
            segments[row, :n] = sequence.segments
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if sequences[0].segments is not None:
        batch["token_type_ids"] = torch.from_numpy(segments)
    return batch


def causal_labels(batch: Batch) -> torch.Tensor:
    """Return `input_ids` with -100 on padding, not shifted, as causal models take them."""
    return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)


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


def single_rows(config) -> bool:
    """Whether a classifier takes one sequence at a time.

    Decoders classify by the last token, and find it by the padding token. Without one in the config
    they cannot tell which token is the last.
    """
    pad_id = getattr(config, "pad_token_id", None)
    return pad_id is None or pad_id < 0


def context_length(tokenizer, config, asked: int | None = None) -> int | None:
    """Find how many tokens fit the model; `asked` narrows it. None is no known bound."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and getattr(config, "model_type", "") in _OFFSET_POSITIONS:
        positions -= (config.pad_token_id or 0) + 1
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


def cannot_judge(name: str, number: int, of: int) -> ScoreError:
    """Build the error for the first batch whose logits are not finite; `name` is the task's."""
    return ScoreError(
        f"the logits of batch {number} of {of} of {name!r} are not finite, and NaN is neither right"
        " nor wrong; compute with --dtype float32, or look with 'deadhead score --diagnose'"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Callable[[Batch], torch.Tensor]]:
    """Give a function from a batch to logits, without dropout, gradients or a cache.

    The model is left as found, also after an exception.
    """
    config = getattr(model, "config", None)
    cached = bool(getattr(config, "use_cache", False))

    def logits(batch: Batch) -> torch.Tensor:
        outputs = call(model, batch)
        if isinstance(outputs, torch.Tensor):  # a module of the user's own
            return outputs
        if not hasattr(outputs, "logits"):
            raise DataError(
                f"a {type(model).__name__} gives no logits to judge; use a model with a head on"
                " top, e.g. ...ForSequenceClassification or ...ForCausalLM"
            )
        return outputs.logits

    if config is not None and cached:
        config.use_cache = False
    try:
        with eval_mode(model), torch.inference_mode():
            yield logits
    finally:
        if config is not None and cached:
            config.use_cache = True
