"""Pseudo-perplexity: how well a masked language model predicts each token from all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch, to_device
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows, read_texts
from deadhead.data.tokens import Packed, TokenSequence, length_runs, pad, padding_id, text_windows
from deadhead.errors import DataError
from deadhead.tasks.evaluation import Evaluation, judged_logits, other_shape
from deadhead.tasks.language_models import perplexity_of, row_losses
from deadhead.tasks.metrics import IGNORED
from deadhead.tasks.task import BatchedTask, device_of, register_task

MASKED_SHARE = 0.15  # of the tokens of calibration texts, as in training


@register_task("masked_lm")
class MaskedLMTask(BatchedTask):
    """Judge a masked language model by the pseudo-perplexity of texts.

    Each token is masked once, alone, and predicted from all others, in windows of `max_length`
    tokens that do not overlap. `batches`, which criteria score on, mask 15% of the tokens at
    once, as in training; which ones is drawn by the text.

    Unit: exp(total loss / total tokens); lower is better. It compares between models of one
        tokenizer and one `max_length` only.
    Cost: a text of n tokens is run n times, so its square in tokens. It judges unasked only if
        `kind` or a task is named.
    Source: Salazar, Liang, Nguyen, Kirchhoff 2020, PLL and PPPL (arXiv 1910.14659, eq. 2 and 6).
    """

    metric = "pseudo_perplexity"
    greater_is_better = False
    lower_is_better = ("pseudo_perplexity", "loss")
    purposes = ("masked_lm",)
    wants = "a ...ForMaskedLM model"
    costly = True

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **limits: Any) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        if tokenizer.mask_token_id is None:
            raise DataError(
                "the tokenizer has no mask token; set tokenizer.mask_token, or give the one that"
                " belongs to the model"
            )

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the texts in rows of a table; blank ones are left out."""
        return read_texts(rows, columns)

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize the texts in windows, and mask some tokens of each."""
        texts = [" ".join(parts) for parts in self.examples.texts]
        found = text_windows(texts, tokenizer=self.tokenizer, limit=self.max_length)
        self._whole = [window.sequence for window in found]
        self._places = [[i for i, of in enumerate(w.texts) if of is not None] for w in found]
        self._owners = np.array([window.owner for window in found])
        counts = [len(places) for places in self._places]
        self._tokens = np.bincount(self._owners, counts, minlength=self.size)
        if not self._tokens.all():
            silent = int(np.argmin(self._tokens))
            raise DataError(f"text {silent} of {self.name!r} has no token to predict; remove it")
        return [self._masked(n, self._drawn(n)) for n in range(len(found))]

    def _drawn(self, number: int) -> np.ndarray:
        places = self._places[number]
        count = min(len(places), max(1, round(MASKED_SHARE * len(places))))
        seed = [*self._whole[number].ids, len(places)]  # by the text: however it is batched
        return np.sort(np.random.default_rng(seed).choice(places, count, replace=False))

    def _masked(self, number: int, places: Sequence[int] | np.ndarray) -> TokenSequence:
        whole = self._whole[number]
        ids = list(whole.ids)
        for place in places:
            ids[place] = self.tokenizer.mask_token_id
        return TokenSequence(ids, whole.segments)

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return the tokens behind the masks; -100 elsewhere."""
        return self._labels(batch, [(row, self._drawn(row)) for row in rows])

    def _labels(self, batch: Batch, masks: Sequence[tuple[int, Any]]) -> Batch:
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for row, (number, places) in zip(labels, masks, strict=True):
            row[places] = torch.tensor(self._whole[number].ids)[places]
        return {"labels": labels}

    @cached_property
    def _copies(self) -> list[tuple[int, int]]:
        """Every (window, place) that is masked once, longest windows first."""
        _ = self.sequences  # makes `_whole`
        order = np.argsort([-len(s.ids) for s in self._whole], kind="stable")
        return [(int(n), place) for n in order for place in self._places[n]]

    @cached_property
    def _runs(self) -> list[slice]:
        lengths = [len(self._whole[number].ids) for number, _ in self._copies]
        return list(length_runs(lengths, batch_size=self.batch_size, max_tokens=self.max_tokens))

    @property
    def passes(self) -> int:
        """Forward passes that `evaluate` makes."""
        return len(self._runs)

    def notes(self) -> list[str]:
        """Say what an evaluation costs."""
        tokens = sum(len(self._whole[number].ids) for number, _ in self._copies)
        return [
            f"pseudo-perplexity masks each of {len(self._copies):,} tokens once: an evaluation runs"
            f" {tokens:,} tokens in {self.passes:,} batches; --test-size makes it cheaper"
        ]

    def packed_for(self, model: nn.Module) -> Iterator[Packed]:
        """Yield the batches of masked copies, made as they are run: they would fill the memory."""
        device, pad_id = device_of(model), padding_id(self.tokenizer, self.config)
        for run in self._runs:
            chosen = self._copies[run]
            batch = pad([self._masked(number, [place]) for number, place in chosen], pad_id)
            batch |= self._labels(batch, [(number, [place]) for number, place in chosen])
            yield Packed(np.arange(run.start, run.stop), to_device(batch, device))

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the negative log-likelihood of the token behind each mask, in nats; (copies,)."""
        logits, labels = judged_logits(model, outputs), batch["labels"]
        if logits.shape[:-1] != labels.shape:
            wanted = f"[{', '.join(map(str, labels.shape))}, tokens of the vocabulary]"
            raise other_shape(model, logits, wanted, self.kind)
        one = (labels != IGNORED).long().argmax(1, keepdim=True)
        rows = torch.arange(len(labels), device=labels.device)[:, None]
        return row_losses(logits[rows, one], labels[rows, one])

    def answers(self, predictions: list[np.ndarray]) -> Sequence[Any]:
        """Add up the losses of each text's tokens."""
        owners = self._owners[[number for number, _ in self._copies]]
        return list(np.bincount(owners, np.array(predictions), minlength=self.size))

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Take the pseudo-perplexity of the texts at `rows`."""
        return perplexity_of(np.asarray(answers), self._tokens[rows], self.__class__.metric)
