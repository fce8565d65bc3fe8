"""What causal language models are judged on: perplexity of text, and minimal pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.examples import Examples
from deadhead.data.rows import (
    BAD,
    GOOD,
    PAIR_COLUMNS,
    PARADIGM,
    TEXT_COLUMNS,
    Columns,
    Rows,
    read_texts,
)
from deadhead.data.tokens import (
    Packed,
    TokenSequence,
    pad,
    padding_id,
    start_ids,
    token_ids,
    windows,
)
from deadhead.errors import DataError
from deadhead.losses.losses import Probe, preference_from
from deadhead.moments.sums import HELD_OUT_EVERY
from deadhead.tasks.evaluation import Evaluation, judged_logits, other_shape
from deadhead.tasks.task import BatchedTask, register_task

# logits upcast and reduced at once, in numbers; bounds the memory beside the logits themselves
_REDUCED_AT_ONCE = 2**25


class SequenceLosses(BatchedTask):
    """Texts whose likelihood judges a causal language model."""

    purposes = ("causal_lm",)
    wants = "a causal language model (...ForCausalLM)"

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Sum the negative log-likelihood of each sequence's tokens, given those before.

        Shape: (sequences,), float64, on the CPU.
        Unit: nats.
        Cost: one batch's logits in memory at a time.
        """
        logits, labels = judged_logits(model, outputs), batch["labels"]
        if logits.shape[:2] != labels.shape:
            wanted = f"[{', '.join(map(str, labels.shape))}, tokens of the vocabulary]"
            raise other_shape(model, logits, wanted, self.kind)
        # the logits at a token predict the next one; the last predicts nothing
        targets = torch.full_like(labels, -100)
        targets[:, :-1] = labels[:, 1:]
        return row_losses(logits, targets)


def row_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum the negative log-likelihood of each row's targets; -100 counts nothing.

    Shape: (rows,), float64, on the CPU, of logits (rows, tokens, vocabulary). Unit: nats. NaN where
    logits are not finite.
    """
    targets = targets.to(logits.device)
    batch, tokens, vocabulary = logits.shape
    flat, targets = logits.reshape(-1, vocabulary), targets.reshape(-1)
    at_once = max(1, _REDUCED_AT_ONCE // vocabulary)
    parts = []
    for scores, ids in zip(flat.split(at_once), targets.split(at_once), strict=True):
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        picked = scores.gather(1, ids.clamp(min=0)[:, None])[:, 0]
        total = scores.logsumexp(1)
        # a token of no probability has an infinite loss; a sum of infinities says nothing: NaN
        parts.append((total - picked).masked_fill(~total.isfinite(), math.nan))
        parts[-1].masked_fill_(ids == -100, 0.0)  # not a product: padding may hold infinities
    # summed in float64: a window has up to thousands of terms
    return torch.cat(parts).view(batch, tokens).cpu().double().sum(1)


def perplexity_of(losses: np.ndarray, tokens: np.ndarray, name: str = "perplexity") -> Evaluation:
    """Take the perplexity of texts from their losses in nats and their numbers of tokens."""
    loss = float(losses.sum() / tokens.sum())
    value = math.exp(loss) if not loss > 700 else math.inf
    metrics = {name: value, "loss": loss, "tokens": float(tokens.sum())}
    means = losses / tokens
    return Evaluation(name, value, metrics, means, weights=tokens, exponential=True)


@register_task("perplexity")
class PerplexityTask(SequenceLosses):
    """Judge a causal language model by the perplexity per token of texts.

    A text is cut into windows of `max_length` tokens that do not overlap. Each window starts with
    the beginning-of-sequence token where the tokenizer has one (then every token of the text is
    predicted), and knows nothing of the windows before it. An example is a text, not a window.

    Perplexities compare between models of one tokenizer and one `max_length` only.

    Unit: perplexity per predicted token, exp(total loss / total tokens); lower is better.
    Cost: one forward pass per batch.
    """

    metric = "perplexity"
    greater_is_better = False
    lower_is_better = ("perplexity", "loss")

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the texts in rows of a table; blank ones are left out."""
        column = columns.text or rows.first_column(TEXT_COLUMNS)
        if column is None and len(rows.columns) == 1:
            column = rows.columns[0]
        if column is None:
            raise DataError(
                f"task kind 'perplexity' does not fit {rows.source!r}: no text among its columns"
                f" {', '.join(rows.columns)}; name it with text_column"
            )
        return read_texts(rows, Columns(column))

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize the texts and cut them into windows."""
        found, owners = windows(
            [text for (text,) in self.examples.texts], self.tokenizer, self.max_length
        )
        silent = np.setdiff1d(np.arange(self.size), owners)
        if len(silent):
            raise DataError(
                f"text {silent[0]} of {self.name!r} has no token to predict; remove it:"
                f" {self.examples.texts[silent[0]][0]!r}"
            )
        self._owners = np.array(owners)
        predicted = [len(window.ids) - 1 for window in found]
        self._tokens = np.bincount(self._owners, predicted, minlength=self.size)
        return found

    def answers(self, predictions: list[np.ndarray]) -> Sequence[Any]:
        """Add up the losses of each text's windows."""
        return list(np.bincount(self._owners, np.array(predictions), minlength=self.size))

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Take the perplexity of the texts at `rows`.

        `per_example` holds each text's mean loss in nats, `weights` its predicted tokens.
        """
        losses, tokens = np.asarray(answers), self._tokens[rows]
        return perplexity_of(losses, tokens)


@register_task("minimal_pairs")
class MinimalPairsTask(SequenceLosses):
    """Judge a causal language model by the pairs whose acceptable sentence is the likelier one.

    Likelihood is the sum over all tokens, after a beginning-of-sequence token where the tokenizer
    has one; a tie counts as wrong. The value is the mean over paradigms, and `metrics` has each
    paradigm's accuracy beside it. `batches` holds the acceptable sentences only.

    Unit: fraction of pairs in [0, 1]; higher is better.
    Cost: one forward pass per batch, two sentences per pair.
    Source: BLiMP, Warstadt et al. 2020 (https://arxiv.org/abs/1912.00582), full-sentence method.
    """

    metric = "accuracy"

    @classmethod
    def is_in(cls, rows: Rows, columns: Columns) -> bool:
        """Whether rows have both sentences."""
        return PAIR_COLUMNS.issubset(rows.columns)

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find pairs and paradigms in the columns that BLiMP has."""
        missing = [name for name in (GOOD, BAD) if name not in rows.columns]
        if missing:
            raise DataError(
                f"task kind 'minimal_pairs' does not fit {rows.source!r}: no {missing[0]!r} among"
                f" its columns {', '.join(rows.columns)}; name them {GOOD!r} and {BAD!r}"
            )
        pairs = list(zip(rows.texts(GOOD, blank=False), rows.texts(BAD, blank=False), strict=True))
        groups = [str(v) for v in rows.values(PARADIGM)] if PARADIGM in rows.columns else None
        return Examples(pairs, groups=groups, origins=rows.origins)

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize all sentences; equal ones are one sequence, so that they tie exactly."""
        start = start_ids(self.tokenizer)
        ids = token_ids(
            self.tokenizer, [pair[side] for side in (0, 1) for pair in self.examples.texts]
        )
        most = (self.max_length or math.inf) - len(start)
        for row, sequence in enumerate(ids):
            if not 0 < len(sequence) <= most:
                raise DataError(
                    f"pair {row % self.size} of {self.name!r} has a sentence of {len(sequence)}"
                    f" tokens, outside 1 to {most}; remove it: cut, its two sides could be equal"
                )
        unique: dict[tuple[int, ...], int] = {}
        where = [unique.setdefault(tuple(start + sequence), len(unique)) for sequence in ids]
        self._sides = np.array(where).reshape(2, self.size)  # (good or bad, pair)
        return [TokenSequence(sequence) for sequence in unique]

    def answers(self, predictions: list[np.ndarray]) -> Sequence[Any]:
        """Return whether the acceptable sentence of each pair is the likelier one: 1 or 0."""
        good, bad = np.array(predictions)[self._sides]
        return list((good < bad).astype(np.float64))

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Average the pairs at `rows` that are right, by paradigm and over paradigms."""
        correct, (names, groups) = np.asarray(answers), self._paradigms
        groups = groups[rows]
        per_paradigm = {
            name: float(correct[groups == group].mean())
            for group, name in enumerate(names)
            if (groups == group).any()
        }
        value = float(np.mean(list(per_paradigm.values())))
        metrics = {"accuracy": value, **(per_paradigm if len(names) > 1 else {})}
        return Evaluation("accuracy", value, metrics, correct, groups=groups)

    def probes(self) -> list[Probe]:
        """Return every fourth pair of `batches`: which of its sentences is the likelier one?"""
        pairs = np.concatenate([packed.rows for packed in self._packed])
        held = pairs[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
        if not len(held):
            return []
        probes, each = [], max(1, len(held) // max(1, len(self._packed)))
        for chosen in np.array_split(held, max(1, len(held) // each)):
            rows = [i for side in self._sides[:, chosen] for i in side]
            batch = pad([self.sequences[i] for i in rows], padding_id(self.tokenizer, self.config))
            probes.append(Probe(batch, preference_from))
        return probes

    @property
    def guessed(self) -> float:
        """Accuracy of tossing a coin."""
        return 0.5

    @cached_property
    def evaluated(self) -> list[Packed]:
        """The batches of both sides."""
        return self.pack(self.sequences)

    @cached_property
    def _packed(self) -> list[Packed]:
        sequences = self.sequences  # makes `_sides`
        return self.pack([sequences[i] for i in self._sides[0]])

    @cached_property
    def _paradigms(self) -> tuple[list[str], np.ndarray]:
        names, groups = np.unique(self.examples.groups or [""] * self.size, return_inverse=True)
        return names.tolist(), groups
