"""Perplexity of a language model on text."""

from __future__ import annotations

import math

import numpy as np
from torch import nn

from deadhead.data.batching import TokenSequence
from deadhead.data.encoding import windows
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows
from deadhead.data.texts import TEXT_COLUMNS, read_texts
from deadhead.errors import DataError
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.likelihood import refuse_other_models, sequence_losses
from deadhead.tasks.task import BatchedTask, register_task


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
