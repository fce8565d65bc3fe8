"""What causal language models are judged on: perplexity of text, and minimal pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import nn

from deadhead.data.examples import Examples
from deadhead.data.rows import BAD, GOOD, PARADIGM, TEXT_COLUMNS, Columns, Rows, read_texts
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
from deadhead.models.purpose import purpose_of
from deadhead.moments.sums import HELD_OUT_EVERY
from deadhead.tasks.evaluation import Evaluation, cannot_judge, evaluating
from deadhead.tasks.task import BatchedTask, register_task

# logits upcast and reduced at once, in numbers; bounds the memory beside the logits themselves
_REDUCED_AT_ONCE = 2**25


def refuse_other_models(config, kind: str) -> None:
    """Refuse a config of a model that is not a causal language model."""
    if purpose_of(config) not in ("causal_lm", "other", "unknown"):
        raise DataError(
            f"task kind {kind!r} does not fit {config.architectures[0]!r}: it needs a causal"
            " language model; use kind 'classification' or a ...ForCausalLM model"
        )


def sequence_losses(
    model: nn.Module, packed: Sequence[Packed], n: int, *, name: str = ""
) -> torch.Tensor:
    """Sum the negative log-likelihood of each sequence's tokens, given those before.

    Shape: (sequences,), float64, on the CPU, in the order of the sequences before packing.
    Unit: nats.
    Cost: one forward pass per batch; one batch's logits in memory at a time.
    """
    losses = torch.zeros(n, dtype=torch.float64)
    with evaluating(model) as logits:
        for number, p in enumerate(packed):
            values = _row_losses(logits(p.batch), p.batch["labels"])
            if values.isnan().any():
                raise cannot_judge(name, number, len(packed))
            losses[torch.from_numpy(p.rows)] = values
    return losses


def _row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    labels = labels.to(logits.device)
    batch, tokens, vocabulary = logits.shape
    # the logits at a token predict the next one; the last predicts nothing
    targets = torch.full_like(labels, -100)
    targets[:, :-1] = labels[:, 1:]
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


@register_task("perplexity")
class PerplexityTask(BatchedTask):
    """Judge a causal language model by the perplexity per token of texts.

    A text is cut into windows of `max_length` tokens that do not overlap. Each window starts with
    the beginning-of-sequence token where the tokenizer has one (then every token of the text is
    predicted), and knows nothing of the windows before it. An example is a text, not a window.

    Perplexities compare between models of one tokenizer and one `max_length` only.
    """

    metric = "perplexity"
    greater_is_better = False

    def __init__(self, examples: Examples, tokenizer, *, config, **limits) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        refuse_other_models(config, self.kind)

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

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Judge a causal language model on all texts; the model is left as found.

        Unit: perplexity per predicted token, exp(total loss / total tokens); lower is better.
            `per_example` holds each text's mean loss in nats, `weights` its predicted tokens.
        Cost: one forward pass per batch.
        """
        packed = self.packed_for(model)
        losses = sequence_losses(model, packed, len(self.sequences), name=self.name).numpy()
        per_text = np.bincount(self._owners, losses, minlength=self.size)
        loss = float(per_text.sum() / self._tokens.sum())
        value = math.exp(loss) if not loss > 700 else math.inf
        return Evaluation(
            self.metric,
            value,
            {self.metric: value, "loss": loss, "tokens": float(self._tokens.sum())},
            per_text / self._tokens,
            weights=self._tokens,
            exponential=True,
        )


@register_task("minimal_pairs")
class MinimalPairsTask(BatchedTask):
    """Judge a causal language model by the pairs whose acceptable sentence is the likelier one.

    Likelihood is the sum over all tokens, after a beginning-of-sequence token where the tokenizer
    has one; a tie counts as wrong. The value is the mean over paradigms, and `metrics` has each
    paradigm's accuracy beside it. `batches` holds the acceptable sentences only.

    Source: BLiMP, Warstadt et al. 2020 (https://arxiv.org/abs/1912.00582), full-sentence method.
    """

    metric = "accuracy"

    def __init__(self, examples: Examples, tokenizer, *, config, **limits) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        refuse_other_models(config, self.kind)

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

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Judge a causal language model on all pairs; the model is left as found.

        Unit: fraction of pairs in [0, 1]; higher is better.
        Cost: one forward pass per batch, two sentences per pair.
        """
        packed = self.packed_for(model)
        losses = sequence_losses(model, packed, len(self.sequences), name=self.name).numpy()
        good, bad = losses[self._sides]
        correct = (good < bad).astype(np.float64)
        names, groups = self._paradigms
        per_paradigm = {
            name: float(correct[groups == group].mean()) for group, name in enumerate(names)
        }
        value = float(np.mean(list(per_paradigm.values())))
        metrics = {self.metric: value, **(per_paradigm if len(names) > 1 else {})}
        return Evaluation(self.metric, value, metrics, correct, groups=groups)

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
    def chance(self) -> float:
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
