"""Minimal pairs: does a language model prefer the acceptable sentence?"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from torch import nn

from deadhead.data.batching import Packed, TokenSequence, pad, padding_id
from deadhead.data.encoding import start_ids, token_ids
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows
from deadhead.data.texts import BAD, GOOD, PARADIGM
from deadhead.errors import DataError
from deadhead.losses.divergence import Probe, preference_from
from deadhead.moments.sums import HELD_OUT_EVERY
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.likelihood import refuse_other_models, sequence_losses
from deadhead.tasks.task import BatchedTask, register_task


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
        pairs = list(zip(rows.filled_texts(GOOD), rows.filled_texts(BAD), strict=True))
        groups = [str(v) for v in rows.values(PARADIGM)] if PARADIGM in rows.columns else None
        return Examples(pairs, groups=groups, origins=rows.origins)

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize the sentences of all pairs; equal ones are one sequence.

        So the two sides of a pair that are equal (BLiMP has one in passive_1) tie exactly, whatever
        batches they would be in.
        """
        start = start_ids(self.tokenizer)
        ids = token_ids(self.tokenizer, [t for side in (0, 1) for t in self._side(side)])
        for row, sequence in enumerate(ids):
            pair = row % self.size
            if not sequence:
                raise DataError(f"pair {pair} of {self.name!r} has an empty sentence; remove it")
            if self.max_length is not None and len(start) + len(sequence) > self.max_length:
                raise DataError(
                    f"pair {pair} of {self.name!r} has {len(start) + len(sequence)} tokens, the"
                    f" model takes {self.max_length}; remove it: cut, its two sides could be equal"
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
        """Return every fourth pair of `batches`: which of its sentences is the likelier one?

        Which of them is acceptable is not looked at.
        """
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
        sequences = self.sequences
        return self.pack([sequences[i] for i in self._sides[0]])

    @cached_property
    def _paradigms(self) -> tuple[list[str], np.ndarray]:
        names, groups = np.unique(self.examples.groups or [""] * self.size, return_inverse=True)
        return names.tolist(), groups

    def _side(self, side: int) -> list[str]:
        return [pair[side] for pair in self.examples.texts]
