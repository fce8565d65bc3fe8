"""The prompts that heads are compared on: from a file, a folder or a data set to padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from deadhead.data.batches import Batch
from deadhead.data.examples import Examples
from deadhead.data.formats import data_files, is_even, quoted_records, read_file, split_slice
from deadhead.data.rows import PARADIGM, Rows
from deadhead.data.splits import is_saved, read_split
from deadhead.data.tokens import (
    TokenSequence,
    check_batching,
    context_length,
    encode,
    pack,
    padding_id,
    refuse_unknown_tokens,
)
from deadhead.display import Brief
from deadhead.errors import DataError, FileFormatError
from deadhead.files import as_path, lines_of, read_text

PROMPT_COLUMNS = ("prompt", "text", "sentence_good", "sentence")

# a prompt of one token attends to itself alone, whatever the head
_FEWEST_TOKENS = 2


@dataclass(frozen=True, eq=False, repr=False)
class Prompts(Brief):
    """Texts whose attention maps are compared, tokenized.

    Attributes:
        texts: the prompts, as given (before any truncation).
        name: where they came from, for people.
        fingerprint: 12 hex digits that change with any text or their order.
        notes: what was drawn, left out or truncated.
    """

    texts: tuple[str, ...]
    name: str
    fingerprint: str
    notes: tuple[str, ...]
    sequences: tuple[TokenSequence, ...] = field(repr=False)
    pad_id: int = field(default=0, repr=False)
    batch_size: int | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of prompts."""
        return len(self.texts)

    @property
    def tokens(self) -> int:
        """Number of tokens in all prompts, special ones included."""
        return sum(len(sequence.ids) for sequence in self.sequences)

    def batches(self) -> list[Batch]:
        """Return padded batches, longest first, on the CPU.

        Shape: `input_ids`, `attention_mask` and, where the model takes them, `token_type_ids`,
        each (batch, tokens), padded on the right.
        """
        packed = pack(self.sequences, self.pad_id, batch_size=self.batch_size)
        return [part.batch for part in packed]


def open_prompts(
    spec: str | Path,
    tokenizer,
    *,
    config,
    n: int | None = 100,
    seed: int = 0,
    column: str | None = None,
    max_length: int | None = None,
    strict: bool = False,
    batch_size: int | None = None,
) -> Prompts:
    """Read prompts, draw `n` of them and tokenize them as the tokenizer does by itself.

    `spec` is one of

    - a file: `.tsv` (the task files of explainabloomity, `prompt TAB id` without a header, or a
      table with one), `.txt` (a line is a prompt), `.jsonl`, `.json`, `.csv`, `.parquet`;
    - `FILE[0:800]`, its rows 0 to 799;
    - a folder of such files, all of them, `FOLDER[0:800]` of each;
    - a folder that `datasets` saved, or the id of a data set, `ID:CONFIG`: its train split;
    - `bundled:agreement`, `bundled:text`, `bundled:sentiment`.

    Special tokens are those that the tokenizer adds by itself, as in the published runs: OPT's
    start token, none for BLOOM.

    Args:
        spec: where the prompts are.
        tokenizer: the model's.
        config: the model's.
        n: prompts drawn without replacement, evenly over files and paradigms (column `UID`), in
            their old order; None takes all.
        seed: of the drawing, and of bundled data.
        column: of the prompts; None takes the first of `prompt`, `text`, `sentence_good` and
            `sentence`, or the only one.
        max_length: tokens per prompt at most; None is what the model and tokenizer take.
        strict: refuse prompts that are longer, instead of truncating them.
        batch_size: prompts per batch at most.

    Raises:
        DataError: there are no prompts, or all have one token; `strict`, and one is too long; the
            file cannot be read.
        UnknownNameError: there is no such column or bundled set.
    """
    if n is not None and n < 1:
        raise DataError(f"{n!r} prompts tell heads apart by nothing; give 1 or more, or None")
    check_batching(batch_size)
    limit = context_length(tokenizer, config, max_length)
    parts = read_prompts(str(spec), n=n, seed=seed, column=column)
    examples, notes = _examples(parts, str(spec), column)
    drawn = examples.sample(n, seed)
    if n is not None and len(examples) < n and not str(spec).startswith("bundled:"):
        notes.append(f"{n} prompts were asked for; {str(spec)!r} has {len(examples)}, all are used")
    sequences, shortened = _tokenize(drawn, tokenizer, config, limit, strict)
    of = "" if len(drawn) == len(examples) else f"the {len(examples)} in "
    return Prompts(
        texts=tuple(text for (text,) in drawn.texts),
        name=f"{of}{spec}",
        fingerprint=drawn.fingerprint,
        notes=(*notes, *shortened),
        sequences=tuple(sequences),
        pad_id=padding_id(tokenizer, config),
        batch_size=batch_size,
    )


def _examples(parts: Sequence[Rows], spec: str, column: str | None) -> tuple[Examples, list[str]]:
    """Take the prompts out of the rows; blank ones are left out."""
    texts: list[tuple[str, ...]] = []
    groups: list[str] = []
    origins: list[tuple[str, int]] = []
    blank = 0
    for part in parts:
        only = part.columns if len(part.columns) == 1 else ()
        named = column or part.first_column([*PROMPT_COLUMNS, *only])
        if named is None:
            raise DataError(
                f"cannot tell which column of {part.source!r} has the prompts; it has"
                f" {', '.join(part.columns)}; name one with column"
            )
        found = part.texts(named)
        paradigms = part.values(PARADIGM) if PARADIGM in part.columns else [part.source] * len(part)
        for text, group, origin in zip(found, paradigms, part.origins, strict=True):
            if text.strip():
                texts.append((text,))
                groups.append(str(group))
                origins.append(origin)
            else:
                blank += 1
    if not texts:
        raise DataError(f"{spec!r} has no prompts, only blank rows; give at least one")
    notes = [f"{blank} blank prompts of {spec!r} were left out"] if blank else []
    return Examples(texts, groups=groups, origins=origins), notes


def _tokenize(
    examples: Examples, tokenizer, config, limit: int | None, strict: bool
) -> tuple[list[TokenSequence], list[str]]:
    """Tokenize, and truncate where the model's context ends."""
    texts = examples.texts
    sequences = encode(texts, tokenizer, None)
    long = [r for r, s in enumerate(sequences) if limit is not None and len(s.ids) > limit]
    notes = []
    if long:
        file, row = (examples.origins or [("the prompts", 0)])[long[0]]
        many = f"{len(long)} of {len(texts)} prompts"
        first = f"(row {row} of {file!r} has {len(sequences[long[0]].ids)})"
        if strict:
            raise DataError(
                f"{many} are longer than {limit} tokens {first}; shorten them, or let them be"
                " truncated"
            )
        notes.append(f"{many} were truncated to {limit} tokens {first}")
        sequences = encode(texts, tokenizer, limit)
    empty = next((r for r, s in enumerate(sequences) if not s.ids), None)
    if empty is not None:
        raise DataError(f"prompt {texts[empty][0]!r:.60} has no tokens; remove it")
    refuse_unknown_tokens(sequences, config)
    if all(len(s.ids) < _FEWEST_TOKENS for s in sequences):
        raise DataError(
            f"every prompt has one token ({texts[0][0]!r:.40}), which attends only to itself, so"
            " that all heads look alike; give longer prompts"
        )
    return sequences, notes


def read_prompts(spec: str, *, n: int | None, seed: int, column: str | None) -> list[Rows]:
    """Read the rows of each file that `spec` names; `n` and `seed` are for bundled data."""
    if spec.startswith("bundled:"):
        return [read_split(spec, "calibration", {"calibration": n}, seed, ())]
    place, rows = split_slice(spec)
    path = as_path(place, "prompts")
    if not path.is_file() and (not path.is_dir() or is_saved(path)):
        return [read_split(spec, "calibration", {"calibration": None}, seed, ())]
    files = [path] if path.is_file() else data_files(path)
    return [
        (read_task_file(p, column=column) if p.suffix.lower() == ".tsv" else read_file(p)).sliced(
            rows, spec
        )
        for p in files
    ]


def read_task_file(path: Path, *, column: str | None = None) -> Rows:
    r"""Read tab-separated prompts: `prompt TAB id` without a header, or a table with one.

    The task files of explainabloomity quote a prompt that holds quotes or line ends, `""` being a
    quote within. Where quotes do not come in such pairs they are plain text.

    The first line is a header if it names `column` or one of `PROMPT_COLUMNS`, or if it has
    several fields that are all plain words; no prompt with an id looks so.

    Source: tasks/*.tsv of explainabloomity, which pandas wrote and read.
    """
    text = read_text(path, "prompts", limit=None)
    records = quoted_records(text, "\t")
    if not is_even(records):
        records = [line.split("\t") for line in lines_of(text) if line.strip()]
    if records and not is_even(records):
        raise FileFormatError(
            f"the lines of {str(path)!r} differ in their number of fields; write prompt TAB id on"
            " each"
        )
    first = records[0] if records else []
    known = {column, *PROMPT_COLUMNS}
    named = bool(known & set(first)) or (len(first) > 1 and all(f.isidentifier() for f in first))
    names = first if named else ["prompt", "id", *map(str, range(2, len(first)))][: len(first)]
    if len(set(names)) < len(names):
        raise FileFormatError(f"{str(path)!r} has a header with a name twice; rename one")
    frame = pd.DataFrame(records[named:], columns=pd.Index(names), dtype=object)
    if frame.empty:
        raise DataError(f"{str(path)!r} has no prompts; give a file with at least one")
    return Rows.of(frame, str(path), file=str(path.resolve()))
