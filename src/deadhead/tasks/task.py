"""What a task is, the registry of its kinds, and what all of them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch, to_device
from deadhead.data.examples import Examples
from deadhead.data.readers import tokenizer_in
from deadhead.data.rows import Columns, Rows
from deadhead.data.tokens import (
    MAX_TOKENS,
    Packed,
    TokenSequence,
    check_batching,
    context_length,
    pack,
    padding_id,
    refuse_unknown_tokens,
)
from deadhead.display import brief
from deadhead.errors import DataError
from deadhead.losses.losses import Probe, held_out
from deadhead.models.registry import Registry
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.judging import Judging


class Task(Protocol):
    """Data to score on and to judge by.

    Attributes:
        kind: name in the registry, e.g. `classification`.
        name: where the data came from.
        metric: name of the metric.
        greater_is_better: False for perplexity.
    """

    kind: str
    name: str
    metric: str
    greater_is_better: bool

    @property
    def size(self) -> int:
        """Number of examples."""
        ...

    @property
    def fingerprint(self) -> str:
        """Short hex of the data."""
        ...

    @property
    def chance(self) -> float | None:
        """The metric without a model (majority class, coin); None if that has no meaning."""
        ...

    @property
    def passes(self) -> int:
        """Forward passes that `evaluate` makes."""
        ...

    def batches(self) -> list[Batch]:
        """Return padded batches with `labels`: what criteria score on."""
        ...

    def probes(self) -> list[Probe]:
        """Return the examples that repairs hold out of their fits, as questions to a model."""
        ...

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Judging a model on all examples; the model is left as found."""
        ...


class BatchedTask(Judging):
    """Examples that are tokenized once and kept in padded batches, also on the model's device.

    The default budget is 2048 padded tokens a batch. On a CPU 256 to 1024 are about 10% faster
    (less padding, activations stay in cache) and 8192 is 50% slower; a GPU wants more, so raise
    `max_tokens` there: 16384 or more, as memory allows (a decoder's logits take max_tokens x
    vocabulary). Results do not depend on it beyond rounding.

    Args:
        examples: what to judge on.
        tokenizer: the model's, or its processor.
        config: the model's; read for labels, positions and padding.
        name: where the data came from, for people.
        batch_size: sequences per batch at most; None leaves it to `max_tokens`.
        max_tokens: tokens per batch at most, padding included; None is the default.
        max_length: tokens per sequence at most; None is what the model and tokenizer take.
    """

    reads: Literal["text", "image", "audio"] = "text"

    def __init__(
        self,
        examples: Examples,
        tokenizer,
        *,
        config,
        name: str = "",
        batch_size: int | None = None,
        max_tokens: int | None = None,
        max_length: int | None = None,
    ) -> None:
        check_batching(batch_size, max_tokens)
        self.refuse_other_models(config)
        self.examples = examples
        self.tokenizer = tokenizer_in(tokenizer) if self.reads == "text" else tokenizer
        self.config = config
        self.name = name
        self.batch_size = batch_size
        self.max_tokens = max_tokens or MAX_TOKENS
        self.max_length = self.longest(max_length)
        self._there: tuple[torch.device, list[Packed]] | None = None

    def longest(self, asked: int | None) -> int | None:
        """Return how many tokens of a sequence are read at most; None is no bound."""
        return context_length(self.tokenizer, self.config, asked)

    @classmethod
    @abstractmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find this kind's texts, labels and paradigms in rows of a table."""

    @abstractmethod
    def tokenize(self) -> list[TokenSequence]:
        """Return every sequence that `evaluate` runs; called once."""

    @classmethod
    def is_in(cls, rows: Rows, columns: Columns) -> bool:
        """Whether rows have what this kind judges by: labels, or the worse of two sentences."""
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size} examples of {brief(self.name)})"

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.examples)

    @property
    def passes(self) -> int:
        """Forward passes that `evaluate` makes."""
        return len(self.evaluated)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with any text, label or order of the examples."""
        return self.examples.fingerprint

    def batches(self) -> list[Batch]:
        """Return padded batches with `labels`, longest first, on the CPU: what criteria score on.

        Shape: `input_ids` and `attention_mask` (batch, tokens), padded on the right; `labels`
        (batch,) classes, or (batch, tokens) token ids with -100 on padding, not shifted.
        """
        return [dict(packed.batch) for packed in self._packed]

    def probes(self) -> list[Probe]:
        """Return every fourth example of `batches`, which repairs hold out of their fits.

        A model that is cut well gives the dense one's answers to them: classes, or next tokens.
        """
        return held_out(self.batches())

    @cached_property
    def sequences(self) -> list[TokenSequence]:
        """The token sequences that `evaluate` runs."""
        return self.tokenize()

    @cached_property
    def _packed(self) -> Sequence[Packed]:
        return self.pack(self.sequences)

    def pack(self, sequences: Sequence[TokenSequence]) -> list[Packed]:
        """Sort by length, cut by the token budget, pad and label."""
        refuse_unknown_tokens(sequences, self.config)
        packed = pack(
            sequences,
            padding_id(self.tokenizer, self.config),
            batch_size=self.batch_size,
            max_tokens=self.max_tokens,
        )
        for p in packed:
            p.batch.update(self.label(p.batch, p.rows))
        return packed

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return the labels of a batch; the tokens themselves unless a kind says otherwise."""
        return {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    def packed_for(self, model: nn.Module) -> Iterable[Packed]:
        """Return what `evaluate` runs, on the device that holds the model's first parameter.

        Copied once per device, outside inference mode: tensors made inside it cannot be trained on.
        """
        device = device_of(model)
        if self._there is None or self._there[0] != device:
            there = [Packed(p.rows, to_device(p.batch, device)) for p in self.evaluated]
            self._there = (device, there)
        return self._there[1]

    @cached_property
    def evaluated(self) -> Sequence[Packed]:
        """The batches that `evaluate` runs: those of `batches` unless a kind says else."""
        return self._packed


def device_of(model: nn.Module) -> torch.device:
    """Return the device that holds a model's first parameter."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


KINDS: Registry[type[BatchedTask]] = Registry("task kind")

_Kind = TypeVar("_Kind", bound=type[BatchedTask])


def register_task(name: str) -> Callable[[_Kind], _Kind]:
    """Register a kind of task under `name`.

    Raises:
        DataError: the name is taken by another class.
    """

    def register(kind: _Kind) -> _Kind:
        if name in KINDS and KINDS[name].__qualname__ != kind.__qualname__:
            raise DataError(f"task kind {name!r} is taken by {KINDS[name].__name__}; use another")
        kind.kind = name
        return KINDS.register(name, kind)  # type: ignore[return-value]

    return register
