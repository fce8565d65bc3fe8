"""Which of several endings or answers is right (SWAG, COPA, HellaSwag, ARC, RACE)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows
from deadhead.data.tokens import (
    Packed,
    TokenSequence,
    encode,
    length_runs,
    pad,
    padding_id,
    refuse_unknown_tokens,
)
from deadhead.errors import DataError
from deadhead.tasks.evaluation import Evaluation, finite, judged_logits, other_shape
from deadhead.tasks.task import BatchedTask, register_task

CONTEXTS = ("context", "premise", "sent1", "article", "passage", "ctx", "startphrase")
QUESTIONS = ("question", "sent2")
LISTS = ("choices", "options", "endings")
LABELS = ("label", "labels", "answer", "answerKey", "correct")
_NUMBERED = re.compile(r"(?:ending|choice|option)_?(\d+)")


@register_task("multiple_choice")
class MultipleChoiceTask(BatchedTask):
    """Judge a model that chooses among texts by accuracy.

    Columns: a `context` (or premise, sent1, article, passage, ctx), a `question` (or sent2), or
    both; the choices as a list (`choices`, `options`, `endings`; also {"text": [...], "label":
    [...]}) or in columns of their own (ending0, ending1, ...; choice1, choice2, ...); a `label` (or
    answer, answerKey): the number of the right one from 0, its letter or its text. With a context
    and a question, the question goes before each choice. Texts beyond `max_length` are truncated.

    Unit: fraction in [0, 1]; higher is better.
    """

    metric = "accuracy"
    purposes = ("multiple_choice",)
    wants = "a ...ForMultipleChoice model"

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **limits: Any) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        self.targets = np.array(examples.labels)
        self.choices = np.array([len(texts) - 1 for texts in examples.texts])

    @classmethod
    def is_in(cls, rows: Rows, columns: Columns) -> bool:
        """Whether rows have choices and labels."""
        return bool(_choice_columns(rows)) and _label(rows, columns) in rows.columns

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find contexts, choices and labels in rows of a table."""
        context = columns.text or rows.first_column(CONTEXTS)
        question = columns.text_pair or rows.first_column(QUESTIONS)
        label, choices = _label(rows, columns), _choice_columns(rows)
        missing = [
            what
            for what, there in (
                ("context or question", context or question),
                ("choices", choices),
                ("label", label),
            )
            if not there
        ]
        if missing:
            raise DataError(
                f"task kind {cls.kind!r} does not fit {rows.source!r}: no {missing[0]} among its"
                f" columns {', '.join(rows.columns)}; name them context, choices and label"
            )
        first = rows.texts(context or question or "")
        asked = rows.texts(question) if context and question else [""] * len(rows)
        texts, right = [], []
        parts = zip(first, asked, _choices(rows), rows.values(label or ""), strict=True)
        for row, (one, before, (choices, names), given) in enumerate(parts):
            where = f"row {row} of {rows.source!r}"
            right.append(_index(given, choices, names, where))
            texts.append((one, *(f"{before} {choice}".strip() for choice in choices)))
        return Examples(texts, right, origins=rows.origins)

    @property
    def guessed(self) -> float:
        """Accuracy of choosing at random."""
        return float((1 / self.choices).mean())

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize each text with each of its choices."""
        pairs = [(texts[0], each) for texts in self.examples.texts for each in texts[1:]]
        return encode(pairs, self.tokenizer, self.max_length)

    def pack(self, sequences: Sequence[TokenSequence]) -> list[Packed]:
        """Pad examples of as many choices together: `input_ids` (examples, choices, tokens)."""
        first = np.cumsum(self.choices) - self.choices
        lengths = np.array([len(s.ids) for s in sequences])
        longest = np.maximum.reduceat(lengths, first)
        packed: list[Packed] = []
        for count in np.unique(self.choices):
            rows = np.flatnonzero(self.choices == count)
            rows = rows[np.argsort(-longest[rows], kind="stable")]
            widths = (longest[rows] * count).tolist()
            for run in length_runs(widths, batch_size=self.batch_size, max_tokens=self.max_tokens):
                chosen = [int(first[row]) + n for row in rows[run] for n in range(int(count))]
                flat = pad([sequences[i] for i in chosen], padding_id(self.tokenizer, self.config))
                batch = {k: v.view(-1, int(count), v.shape[1]) for k, v in flat.items()}
                batch["labels"] = torch.from_numpy(self.targets[rows[run]])
                packed.append(Packed(rows[run], batch))
        refuse_unknown_tokens(sequences, self.config)
        return packed

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the logits of each choice, (examples, choices); -100 where another has more."""
        logits, shape = judged_logits(model, outputs), batch["input_ids"].shape[:2]
        if logits.shape != shape:
            raise other_shape(model, logits, str(list(shape)), self.kind)
        return finite(logits)

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Compare the likeliest choices with the right ones."""
        chosen = np.array([answer.argmax() for answer in answers])
        correct = (chosen == self.targets[rows]).astype(np.float64)
        value = float(correct.mean())
        return Evaluation("accuracy", value, {"accuracy": value}, correct)

    def references(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of the right choices."""
        return self.targets[rows]

    def ideal(self) -> Sequence[Any]:
        """Return logits of 10 for the right choices."""
        pairs = zip(self.choices, self.targets, strict=True)
        return [10 * np.eye(count, dtype=np.float32)[right] for count, right in pairs]


def _label(rows: Rows, columns: Columns) -> str | None:
    return columns.label or rows.first_column(LABELS)


def _choice_columns(rows: Rows) -> list[str]:
    """Return the column that lists the choices, or those that hold one each, in their order."""
    listed = rows.first_column(LISTS)
    if listed is not None:
        return [listed]
    numbered = {name: found for name in rows.columns if (found := _NUMBERED.fullmatch(name))}
    columns = sorted(numbered, key=lambda name: int(numbered[name][1]))
    return columns if len(columns) > 1 else []


def _choices(rows: Rows) -> list[tuple[list[str], list[str]]]:
    """Return the choices of each row, and their names if they have any (A, B, ...)."""
    columns = _choice_columns(rows)
    if len(columns) > 1:
        return [(list(some), []) for some in zip(*map(rows.texts, columns), strict=True)]
    return [
        _listed(given, f"row {row} of {rows.source!r}")
        for row, given in enumerate(rows.values(columns[0]))
    ]


def _listed(given: Any, where: str) -> tuple[list[str], list[str]]:
    """Read a list of choices: texts, or {"text": ..., "label": ...} of one or of all."""
    names: list[Any] = []
    texts: Any = given
    if isinstance(given, Mapping):
        texts, names = given.get("text"), list(given.get("label", ()))
    elif isinstance(given, list | np.ndarray) and all(isinstance(x, Mapping) for x in given):
        texts, names = [x.get("text") for x in given], [x.get("label") for x in given]
    texts = list(texts) if isinstance(texts, list | np.ndarray) else []
    if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} has {given!r:.80} as choices; write a list of 2 or more texts")
    return texts, [str(name) for name in names]


def _index(given: Any, choices: Sequence[str], names: Sequence[str], where: str) -> int:
    """Find which choice a label means: by its name, its number from 0, its letter or its text."""
    key = str(int(given)) if isinstance(given, float) and given.is_integer() else str(given).strip()
    ways = (
        names.index(key) if key in names else None,
        int(key) if key.isdecimal() and not names else None,
        ord(key.upper()) - ord("A") if len(key) == 1 and key.isalpha() else None,
        choices.index(key) if key in choices else None,
    )
    found = next((way for way in ways if way is not None and 0 <= way < len(choices)), None)
    if found is None:
        raise DataError(
            f"{where} has the label {given!r:.40}, which is none of its {len(choices)} choices;"
            f" write 0 to {len(choices) - 1}, the letter of one, or its text"
        )
    return found
