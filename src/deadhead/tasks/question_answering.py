"""Answers that are spans of a text (SQuAD)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows
from deadhead.data.tokens import TextWindow, TokenSequence, text_windows, token_ids
from deadhead.errors import DataError
from deadhead.tasks.evaluation import Evaluation, finite, judged_logits, other_shape
from deadhead.tasks.task import BatchedTask, register_task

Answer = tuple[str, int]  # a text, and where it begins in its context

WINDOW, STRIDE = 384, 128  # tokens, as in the SQuAD scripts of BERT
LONGEST_ANSWER = 30  # tokens, likewise


@register_task("question_answering")
class QuestionAnsweringTask(BatchedTask):
    """Judge a model of answer spans by F1 of words and exact match, as SQuAD does.

    Columns: `question`, `context` and `answers`, as SQuAD has them: {"text": [...], "answer_start":
    [...]}, or a list of {"text", "answer_start"}; a question without answers has none in its
    context. A context that is too long is cut into windows of up to 384 tokens that share 128
    (fewer, if `max_length` is less), and the likeliest span of all windows is the answer, of 30
    tokens at most. Only where some question has no answer, the model may give none: if the
    likelihood of no answer (start and end at the first token) is above that of every span, in the
    window that has it least.

    Unit: fractions in [0, 1], means over questions, best of the accepted answers; higher is better.
    Source: Rajpurkar et al. 2016, 2018 (arXiv 1606.05250, 1806.03822); normalization as in their
        scripts: lower case, without punctuation and articles.
    """

    metric = "f1"
    purposes = ("question_answering",)
    wants = "a ...ForQuestionAnswering model"

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **limits: Any) -> None:
        super().__init__(examples, tokenizer, config=config, **limits)
        self.targets: Sequence[tuple[Answer, ...]] = examples.labels  # type: ignore[assignment]
        self.may_be_silent = not all(self.targets)

    @classmethod
    def is_in(cls, rows: Rows, columns: Columns) -> bool:
        """Whether rows have questions, contexts and answers."""
        return all(name in rows.columns for name in _columns(columns))

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find questions, contexts and answers in rows of a table."""
        names = _columns(columns)
        missing = [name for name in names if name not in rows.columns]
        if missing:
            raise DataError(
                f"task kind {cls.kind!r} does not fit {rows.source!r}: no {missing[0]!r} among its"
                f" columns {', '.join(rows.columns)}; name them question, context and answers"
            )
        texts = list(zip(*(rows.texts(name, blank=False) for name in names[:2]), strict=True))
        answers = [
            _answers(given, context, f"row {row} of {rows.source!r}")
            for row, (given, (_, context)) in enumerate(
                zip(rows.values(names[2]), texts, strict=True)
            )
        ]
        return Examples(texts, answers, origins=rows.origins)

    def tokenize(self) -> list[TokenSequence]:
        """Tokenize questions with their contexts, in windows."""
        questions, contexts = zip(*self.examples.texts, strict=True)
        limit = min(WINDOW, self.max_length or WINDOW)
        stride = min(STRIDE, limit // 4)
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        longest = [len(ids) for ids in token_ids(self.tokenizer, questions)]
        room = limit - special - stride - 1
        for row, length in enumerate(longest):
            if length > room:
                raise DataError(
                    f"question {row} of {self.name!r} has {length} tokens, and windows of {limit}"
                    f" have room for {max(0, room)} beside the context; remove it, or raise"
                    " --max-length (max_length)"
                )
        self._windows = text_windows(
            questions, contexts, tokenizer=self.tokenizer, limit=limit, stride=stride
        )
        return [window.sequence for window in self._windows]

    def notes(self) -> list[str]:
        """Say how many contexts are cut into windows."""
        _ = self.sequences  # makes `_windows`
        windows = Counter(window.owner for window in self._windows)
        cut = sum(count > 1 for count in windows.values())
        return [f"{cut} of {self.size} contexts are cut into windows"] if cut else []

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return where the first accepted answer starts and ends; the first token if it does not.

        Shape: (windows,) each.
        """
        spans = torch.tensor([self._span(self._windows[row]) for row in rows])
        return {"start_positions": spans[:, 0], "end_positions": spans[:, 1]}

    def _span(self, window: TextWindow) -> tuple[int, int]:
        silent = self._silent(window)
        if not self.targets[window.owner]:
            return silent, silent
        text, start = self.targets[window.owner][0]
        end = start + len(text)
        places = _context(window)
        inside = [i for i in places if window.offsets[i][1] > start and window.offsets[i][0] < end]
        whole = places and window.offsets[places[0]][0] <= start
        if not inside or not whole or window.offsets[places[-1]][1] < end:
            return silent, silent
        return inside[0], inside[-1]

    def _silent(self, window: TextWindow) -> int:
        """Return the place that means no answer: the classification token, else the first."""
        ids, token = list(window.sequence.ids), self.tokenizer.cls_token_id
        return ids.index(token) if token in ids else 0

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the logits of start and end, (windows, tokens, 2)."""
        logits, mask = judged_logits(model, outputs), batch["attention_mask"]
        if logits.shape != (*mask.shape, 2):
            raise other_shape(model, logits, str([*mask.shape, 2]), self.kind)
        return finite(logits.masked_fill((mask == 0)[..., None], 0))

    def answers(self, predictions: list[np.ndarray]) -> Sequence[str]:
        """Return the answer to each question, the likeliest of all its windows; perhaps none."""
        best: list[tuple[float, str]] = [(-np.inf, "")] * self.size
        silence = np.full(self.size, np.inf)
        for logits, window in zip(predictions, self._windows, strict=True):
            owner = window.owner
            score, text = self._likeliest(logits, window)
            if score > best[owner][0]:
                best[owner] = (score, text)
            silence[owner] = min(silence[owner], logits[self._silent(window)].sum())
        if not self.may_be_silent:
            return [text for _, text in best]
        pairs = zip(best, silence, strict=True)
        return ["" if least > score else text for (score, text), least in pairs]

    def _likeliest(self, logits: np.ndarray, window: TextWindow) -> tuple[float, str]:
        places = _context(window)
        if not places:
            return -np.inf, ""
        start, end = logits[places].astype(np.float64).T
        scores = start[:, None] + end[None, :]  # (start, end)
        allowed = np.triu(np.ones_like(scores, bool)) & ~np.triu(
            np.ones_like(scores, bool), LONGEST_ANSWER
        )
        scores[~allowed] = -np.inf
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        context = self.examples.texts[window.owner][1]
        begin, stop = window.offsets[places[first]][0], window.offsets[places[last]][1]
        return float(scores[first, last]), context[begin:stop]

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Compare answers with the accepted ones."""
        pairs = [(answer, self.targets[row]) for answer, row in zip(answers, rows, strict=True)]
        f1 = np.array([_best(word_f1, answer, accepted) for answer, accepted in pairs])
        exact = np.array([_best(exact_match, answer, accepted) for answer, accepted in pairs])
        metrics = {"f1": float(f1.mean()), "exact_match": float(exact.mean())}
        return Evaluation("f1", metrics["f1"], metrics, f1)

    def for_trainer(self, answers: Sequence[Any]) -> list[dict[str, Any]]:
        """Return answers as `evaluate`'s squad metric takes them."""
        return [{"id": str(n), "prediction_text": answer} for n, answer in enumerate(answers)]

    def references(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Return the accepted answers, as `evaluate`'s squad metric takes them."""
        targets = [list(zip(*self.targets[row], strict=True)) or [(), ()] for row in rows]
        return [
            {"id": str(n), "answers": {"text": list(texts), "answer_start": list(starts)}}
            for n, (texts, starts) in enumerate(targets)
        ]

    def ideal(self) -> Sequence[Any]:
        """Return the first accepted answers."""
        return [accepted[0][0] if accepted else "" for accepted in self.targets]


def normalized(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and articles."""
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def exact_match(found: str, wanted: str) -> float:
    """Return whether two answers are the same words: 1 or 0."""
    return float(normalized(found) == normalized(wanted))


def word_f1(found: str, wanted: str) -> float:
    """Return the F1 of the words of two answers; 1 if neither has any."""
    words, right = normalized(found), normalized(wanted)
    if not words or not right:
        return float(words == right)
    shared = (Counter(words) & Counter(right)).total()
    return 2 * shared / (len(words) + len(right))


def _best(metric: Any, answer: str, accepted: Sequence[Answer]) -> float:
    """Compare with the accepted answer that is nearest; without any, silence is right."""
    return max(metric(answer, text) for text, _ in accepted or (("", 0),))


def _context(window: TextWindow) -> list[int]:
    """Return the places of the context's tokens."""
    return [place for place, text in enumerate(window.texts) if text == 1]


def _columns(columns: Columns) -> tuple[str, str, str]:
    return (
        columns.text or "question",
        columns.text_pair or "context",
        columns.label or "answers",
    )


def _answers(given: Any, context: str, where: str) -> tuple[Answer, ...]:
    """Read the accepted answers to a question; refuse those that are not where they should be."""
    if isinstance(given, Mapping) and {"text", "answer_start"} <= set(given):
        texts, starts = given["text"], given["answer_start"]
        single = isinstance(texts, str)
        pairs = [(texts, starts)] if single else list(zip(texts, starts, strict=False))
        right = single or len(texts) == len(starts)
    else:
        listed = isinstance(given, list | np.ndarray)
        items = list(given) if listed else []
        right = listed and all(isinstance(x, Mapping) for x in items)
        pairs = [(x.get("text"), x.get("answer_start")) for x in items] if right else []
    for text, start in pairs:
        right = right and isinstance(text, str) and isinstance(start, int | np.integer)
    if not right:
        raise DataError(
            f"{where} has {given!r:.80} as answers; write"
            ' {"text": ["..."], "answer_start": [0]}, with empty lists for none'
        )
    for text, start in pairs:
        if context[start : start + len(text)] != text or start < 0:
            raise DataError(
                f"{where} says that {text!r:.80} begins at character {start} of its context, where"
                f" {context[max(0, start) :][: len(text)]!r:.80} is; correct answer_start"
            )
    return tuple((text, int(start)) for text, start in pairs)
