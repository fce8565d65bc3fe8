"""Classification of a sentence or of a pair of sentences."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from deadhead.data.batching import Batch, TokenSequence, cannot_judge, evaluating
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows
from deadhead.errors import DataError
from deadhead.tasks.evaluation import Evaluation
from deadhead.tasks.task import BatchedTask, register_task

# the first that is there is the text; of these pairs both are
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
TEXT_COLUMNS = ("sentence", "text", "sentence1", "question1", "premise", "question", "review")
LABEL_COLUMNS = ("label", "labels", "class", "target")


@dataclass(frozen=True)
class NamedLabel:
    """A class of a `datasets` set: its index there, and its name."""

    index: Hashable
    name: str


@register_task("classification")
class ClassificationTask(BatchedTask):
    """Judge a classifier by accuracy; macro F1 and Matthews correlation are measured as well.

    A label that is a name of the model's `label2id` means that class, upper or lower case; any
    other whole number means the class of that index. Texts beyond `max_length` are truncated.
    """

    metric = "accuracy"

    def __init__(self, examples: Examples, tokenizer, *, config, **limits) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        for architecture in getattr(config, "architectures", None) or ():
            if architecture.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM")):
                raise DataError(
                    f"task kind 'classification' does not fit {architecture!r}: it has no classes;"
                    " use 'minimal_pairs' or 'perplexity', or a ...ForSequenceClassification model"
                )
        if examples.labels is None:
            raise DataError("the examples have no labels; classification needs one each")
        classes = {label: class_of(label, config) for label in set(examples.labels)}
        self.targets = np.array([classes[label] for label in examples.labels])

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the texts and labels in rows of a table."""
        label = columns.label or rows.first_column(LABEL_COLUMNS)
        if label is None:
            raise DataError(
                f"task kind 'classification' does not fit {rows.source!r}: no label among its"
                f" columns {', '.join(rows.columns)}; name it with --label-column (label_column)"
            )
        labels = rows.values(label)
        text, second = text_columns(rows, columns, label)
        texts = [rows.filled_texts(column) for column in (text, second) if column is not None]
        return Examples(
            list(zip(*texts, strict=True)),
            labels=_with_names(labels, rows.class_names.get(label)),
            origins=rows.origins,
        )

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most common class of these examples."""
        return float(np.bincount(self.targets).max() / self.size)

    def tokenise(self) -> list[TokenSequence]:
        """Tokenise the texts with the special tokens of the model."""
        columns = [list(column) for column in zip(*self.examples.texts, strict=True)]
        encoded = self.tokenizer(
            *columns,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_attention_mask=False,
        )
        ids = encoded["input_ids"]
        empty = next((row for row, sequence in enumerate(ids) if not sequence), None)
        if empty is not None:
            raise DataError(f"example {empty} of {self.name!r} has no tokens; remove it")
        segments = encoded.get("token_type_ids", [None] * len(ids))
        return [TokenSequence(i, s) for i, s in zip(ids, segments, strict=True)]

    def label(self, batch: Batch, rows: np.ndarray) -> torch.Tensor:
        """Return the classes of a batch, shape (batch,)."""
        return torch.from_numpy(self.targets[rows])

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Judge a classifier on all examples; the model is left as found.

        Unit: fractions in [0, 1] (mcc in [-1, 1]); higher is better.
        Cost: one forward pass per batch.

        Raises:
            ScoreError: the logits are not finite; names the first batch.
        """
        from sklearn.metrics import f1_score, matthews_corrcoef  # takes a second to import

        packed = self.packed_for(model)
        with evaluating(model) as logits:
            found = torch.cat([_classes(logits(p.batch)) for p in packed]).cpu().numpy()
        if (found < 0).any():
            ends = np.cumsum([len(p.rows) for p in packed])
            first = int(np.searchsorted(ends, np.argmax(found < 0), side="right"))
            raise cannot_judge(self.name, first, len(packed))
        predicted = np.empty(self.size, dtype=np.int64)
        predicted[np.concatenate([p.rows for p in packed])] = found
        correct = (predicted == self.targets).astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model that predicts one class divides by zero
            metrics = {
                "accuracy": float(correct.mean()),
                "macro_f1": float(f1_score(self.targets, predicted, average="macro")),
                "mcc": float(matthews_corrcoef(self.targets, predicted)),
            }
        return Evaluation(self.metric, metrics["accuracy"], metrics, correct)


def class_of(label: Hashable, config) -> int:
    """Find the class index that a label of the data means to the model.

    Of a label with a name and an index, the name goes first: data sets and models number the same
    classes differently (MNLI).

    Raises:
        DataError: the model has no such class.
    """
    n, label2id = config.num_labels, dict(config.label2id or {})
    if n < 2:
        raise DataError(f"the model has {n} label; classification needs 2 or more classes")
    name, number = (label.name, label.index) if isinstance(label, NamedLabel) else (label, label)
    text = str(name).strip()
    if text in label2id:
        return int(label2id[text])
    folded = [index for known, index in label2id.items() if known.casefold() == text.casefold()]
    if len(folded) == 1:
        return int(folded[0])
    index = _whole_number(number)
    if index is not None and 0 <= index < n:
        return index
    if index == -1:
        raise DataError("label -1 marks a hidden test label; judge on a split with labels")
    names = ", ".join(label2id)
    raise DataError(
        f"label {name!r} is not known to the model, which has {names}; write one of these or"
        f" 0 to {n - 1} in the data, or set label2id in the model's config"
    )


def _whole_number(label: Hashable) -> int | None:
    try:
        number = float(label)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def _with_names(values: list[Hashable], names: list[str] | None) -> list[Hashable]:
    if names is None:
        return values
    # an unlabelled row of a `datasets` set is -1 and has no name
    known: dict[Hashable, str] = dict(enumerate(names))
    return [NamedLabel(v, known[v]) if v in known else v for v in values]


def text_columns(rows: Rows, columns: Columns, label: str | None) -> tuple[str, str | None]:
    """Return the columns of the text and of the second text, if there is one.

    Raises:
        DataError: it cannot be told.
    """
    if columns.text is not None:
        return columns.text, columns.text_pair
    if columns.text_pair is None:
        for pair in TEXT_PAIRS:
            if set(pair) <= set(rows.columns):
                return pair
    text = rows.first_column(name for name in TEXT_COLUMNS if name != columns.text_pair)
    if text is not None:
        return text, columns.text_pair
    others = [name for name in rows.columns if name not in (label, columns.text_pair)]
    if len(others) != 1:
        raise DataError(
            f"cannot tell which column of {rows.source!r} is the text; it has"
            f" {', '.join(rows.columns)}; name one with text_column"
        )
    return others[0], columns.text_pair


def _classes(logits: torch.Tensor) -> torch.Tensor:
    """Return the likeliest class of each row; -1 where the logits are not finite."""
    return logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1)
