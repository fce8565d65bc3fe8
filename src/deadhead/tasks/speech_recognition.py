"""The words of a recording, by models of CTC and by encoder-decoders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import LABELS, Batch
from deadhead.data.examples import Examples
from deadhead.data.given import check_tokenizer
from deadhead.data.readers import tokenizer_in
from deadhead.data.rows import Columns, Rows
from deadhead.data.tokens import Packed, token_ids
from deadhead.errors import DataError, MissingDependencyError
from deadhead.losses.answers import valid_answers
from deadhead.losses.losses import task as task_loss
from deadhead.tasks.evaluation import Evaluation, evaluating, finite, judged_logits
from deadhead.tasks.media import MediaTask
from deadhead.tasks.task import register_task

TRANSCRIPTS = ("transcription", "transcript", "text", "sentence", "normalized_text", "label")
BEYOND = 20  # tokens that a model may say more than the longest transcript has


def need_jiwer() -> Any:
    """Return the module that counts wrong words."""
    try:
        import jiwer
    except ImportError as error:
        raise MissingDependencyError(
            "word error rates need jiwer, which is not installed; pip install 'deadhead[speech]'"
        ) from error
    return jiwer


@register_task("speech_recognition")
class SpeechTask(MediaTask):
    """Judge a speech model by its word error rate; character error rate and loss as well.

    A rate is the number of wrong, missing and inserted words over all words of the transcripts,
    all recordings together. Models of CTC (Wav2Vec2, HuBERT) are decoded by their likeliest token
    of each frame; encoder-decoders (Whisper, Speech2Text) generate greedily, at most 20 tokens more
    than the longest transcript has. Texts are compared as they are: case and punctuation count.
    Where the tokenizer of a CTC model knows only capital or only small letters, so are transcripts.

    Unit: fractions, above 1 if a model inserts much; loss in nats per token or transcript, as the
        model's own; lower is better.
    Cost: one forward pass per batch; of encoder-decoders another per generated token.
    Source: Levenshtein distance by jiwer.
    """

    reads = "audio"
    metric = "wer"
    purposes = ("ctc", "seq2seq")
    wants = "a ...ForCTC, or a ...ForConditionalGeneration of speech"
    greater_is_better = False
    lower_is_better = ("wer", "cer", "loss")

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **made: Any) -> None:
        need_jiwer()
        if examples.labels is None:
            raise DataError(
                f"task kind {self.kind!r} does not fit: there are no transcripts; give them,"
                " or give recordings alone as calibration"
            )
        super().__init__(examples, tokenizer, config=config, **made)
        self.words = tokenizer_in(tokenizer)
        check_tokenizer(self.words)
        self.transcripts = [" ".join(str(text).split()) for text in examples.labels or ()]
        if self.is_ctc:
            self.transcripts = _in_known_letters(self.transcripts, self.words)

    @property
    def is_ctc(self) -> bool:
        """Whether the model says a token for each frame."""
        return not getattr(self.config, "is_encoder_decoder", False)

    @classmethod
    def is_in(cls, rows: Rows, columns: Columns) -> bool:
        """Whether rows have transcripts."""
        return _transcripts(rows, columns) in rows.columns

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the recordings and transcripts in rows of a table."""
        column = _transcripts(rows, columns)
        if column is None:
            raise DataError(
                f"task kind {cls.kind!r} does not fit {rows.source!r}: no transcript among its"
                f" columns {', '.join(rows.columns)}; name it with --label-column (label_column),"
                " or give recordings alone as --calibration"
            )
        texts = rows.texts(column, blank=False)
        files = [(each,) for each in cls.media(rows, columns)]
        return Examples(files, labels=texts, origins=rows.origins)

    @cached_property
    def targets(self) -> list[list[int]]:
        """The token ids of each transcript."""
        if self.is_ctc:
            return token_ids(self.words, self.transcripts)
        made = self.words(self.transcripts)["input_ids"]
        start = self.config.decoder_start_token_id
        # the model puts it in front of its labels by itself
        return [ids[1:] if ids and ids[0] == start else ids for ids in made]

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return the tokens of the transcripts, (batch, tokens), padded with -100."""
        ids = [torch.tensor(self.targets[row]) for row in rows]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
        return {"labels": padded.long()}

    def predictions(
        self, model: nn.Module, packed: Sequence[Packed] | None = None
    ) -> list[np.ndarray]:
        """Transcribe; each row is the loss of a recording, and the tokens that the model says."""
        if self.is_ctc:
            return super().predictions(model, packed)
        with_loss = super().predictions(model, packed)
        found: list[Any] = [None] * len(with_loss)
        with evaluating(model):
            for p in packed or self.packed_for(model):
                said = self._generated(model, p.batch).cpu().numpy()
                for row, ids in zip(p.rows, said, strict=True):
                    found[row] = np.concatenate([with_loss[row], ids])
        return found

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the loss of each recording, and of a CTC model the likeliest token of each frame.

        Shape: (batch, 1 + frames), float64; padding is blank.
        """
        logits = finite(judged_logits(model, outputs))
        loss = task_loss(model, outputs, batch).double()[:, None]
        if not self.is_ctc:
            return loss
        blank = int(self.config.pad_token_id or 0)
        valid = valid_answers(model, logits, batch)
        ids = logits.argmax(-1).masked_fill(~valid, blank).double()
        return torch.cat([loss, ids.masked_fill(logits.isnan().any(-1) & valid, math.nan)], dim=1)

    def _generated(self, model: Any, batch: Batch) -> torch.Tensor:
        inputs = {k: v for k, v in batch.items() if k not in LABELS}
        known = inspect.signature(model.forward).parameters
        room = max(map(len, self.targets)) + BEYOND
        positions = getattr(self.config, "max_target_positions", None)
        if positions is not None:
            room = min(room, positions - 8)  # of Whisper, whose prompt takes some
        inputs = {name: value for name, value in inputs.items() if name in known}
        return model.generate(**inputs, max_new_tokens=max(1, room), do_sample=False, num_beams=1)

    def judge(self, answers: Sequence[Any], rows: np.ndarray) -> Evaluation:
        """Count the wrong words of the recordings at `rows`."""
        jiwer = need_jiwer()
        right = [self.transcripts[row] for row in rows]
        said = [self.text_of(answer[1:].astype(int)) for answer in answers]
        pairs = list(zip(right, said, strict=True))
        words = np.array([_errors(jiwer.process_words(*pair)) for pair in pairs], float)
        letters = np.array([_errors(jiwer.process_characters(*pair)) for pair in pairs], float)
        metrics = {
            "wer": float(words[:, 0].sum() / words[:, 1].sum()),
            "cer": float(letters[:, 0].sum() / letters[:, 1].sum()),
            "loss": float(np.mean([answer[0] for answer in answers])),
        }
        each = words[:, 0] / words[:, 1]
        return Evaluation("wer", metrics["wer"], metrics, each, weights=words[:, 1])

    def text_of(self, ids: np.ndarray) -> str:
        """Decode what the model says of one recording."""
        how: dict[str, Any] = {"skip_special_tokens": True}
        if self.is_ctc:
            ids = ids[np.diff(ids, prepend=-1) != 0]  # held for some frames, a token is said once
            ids = ids[ids != int(self.config.pad_token_id or 0)]
            if "CTC" in type(self.words).__name__:
                how["group_tokens"] = False  # that is done
        return " ".join(self.words.decode(ids.tolist(), **how).split())


def _errors(found: Any) -> tuple[int, int]:
    """Return how many words are wrong, and how many there are."""
    wrong = found.substitutions + found.deletions + found.insertions
    return wrong, found.hits + found.substitutions + found.deletions


def _transcripts(rows: Rows, columns: Columns) -> str | None:
    return columns.label or rows.first_column(TRANSCRIPTS)


def _in_known_letters(texts: list[str], tokenizer: Any) -> list[str]:
    """Write texts in the case that the tokenizer knows best, as they are if it knows that."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return texts
    cases = [texts, [text.upper() for text in texts], [text.lower() for text in texts]]
    counts = [sum(ids.count(unknown) for ids in token_ids(tokenizer, case)) for case in cases]
    return cases[int(np.argmin(counts))]
