"""Open the three data sets of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from deadhead.data.examples import Examples, keep_disjoint
from deadhead.data.rows import PAIR_COLUMNS, Columns, Rows, label_column, read_texts
from deadhead.data.splits import ROLES, Spec, find_splits, read_split
from deadhead.data.tokens import single_rows
from deadhead.display import Brief
from deadhead.errors import DataError
from deadhead.models.purpose import Purpose, purpose_of
from deadhead.options.fields import check_arguments
from deadhead.tasks.classification import Sentences, can_judge
from deadhead.tasks.language_models import MinimalPairsTask, PerplexityTask
from deadhead.tasks.task import KINDS, BatchedTask, Task


@dataclass(frozen=True, repr=False)
class TaskSet(Brief):
    """Disjoint sets of one kind: to score on, to stop by, and to report once.

    Attributes:
        calibration: what criteria score on and repairs fit.
        selection: what decides when to stop; None where the data has no such split.
        test: what is reported; None where nothing can be judged, as the data have no labels.
        notes: how the rows were divided, and what was removed for it.
        training: what `distill` trains on: all of what the calibration set was drawn from, or text
            of its own, disjoint from selection and test too; None: the calibration set.
        held_out: without a test set, data to compare a pruned model with the dense one on.
    """

    calibration: Task
    selection: Task | None
    test: Task | None
    notes: tuple[str, ...] = ()
    training: Task | None = None
    held_out: Task | None = None

    @property
    def judge(self) -> Task:
        """The test set."""
        if self.test is None:
            raise DataError(
                f"nothing can be judged: {self.calibration.name!r} has no labels; give a test set"
            )
        return self.test

    def describe(self, *, trains: bool = False) -> str:
        """Say what came from where, a line per set; of the training set if anything is trained."""
        judged = f"{self.test.kind}, judged by {self.test.metric}" if self.test else ""
        roles = [*ROLES, *(["training"] if trains and self.training else [])]
        lines = [judged or "texts without labels: judged by the divergence from the dense model"]
        for role in roles if judged else [*roles, "held_out"]:
            task = getattr(self, role)
            of = task and f"{task.size} examples of {task.name}, fingerprint {task.fingerprint}"
            lines.append(f"  {role}: {of or 'none'}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.describe()


@check_arguments
def open_task(
    spec: Spec | Path | None,
    tokenizer,
    *,
    config,
    kind: str | None = None,
    calibration: str | Path | None = None,
    selection: str | Path | None = None,
    train: str | Path | None = None,
    test: str | Path | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    calibration_size: int | None = 512,
    selection_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    max_length: int | None = None,
    allow_overlap: bool = False,
    judged: bool = True,
    purpose: Purpose | None = None,
) -> TaskSet:
    """Open the calibration, selection and test sets of a run.

    `spec`, and each of the three sets, is one of

    - `bundled:sentiment`, `bundled:agreement`, `bundled:text`: made on the spot, offline;
    - a file (.tsv, .csv, .jsonl, .json, .parquet, .txt) or `FILE[0:800]`, its rows 0 to 799;
    - a folder with files named train, dev and test (or calibration, validation, selection);
    - a folder of other files, whose rows are put below each other, `FOLDER[0:800]` of each;
    - a folder that `datasets` saved, or the id of a data set on the hub, `ID:CONFIG`.

    Without splits, the first 80% of the rows of each file calibrate and the last 20% test. The
    three sets are then made disjoint (see `examples.keep_disjoint`: a few shared texts are removed,
    more are refused), and only then sampled.

    Args:
        spec: the data; None if calibration and test are both given.
        tokenizer: the model's.
        config: the model's.
        kind: `classification`, `minimal_pairs` or `perplexity`; None reads it off the columns.
        calibration: wins over what `spec` has. Texts without labels will do, for losses that need
            none; for minimal pairs any text.
        selection: wins over what `spec` has.
        train: text without labels (labels are not looked at) for `distill`; read by the same
            columns, and of minimal pairs the acceptable sentences.
        test: wins over what `spec` has.
        text_column: name of the text; None looks for `sentence`, `text`, ...
        text_pair_column: name of the second text.
        label_column: name of the label; None looks for `label`, `labels`, ...
        calibration_size: examples drawn at random without replacement, evenly over the paradigms;
            None is all of them, and so is more than there are.
        selection_size: likewise.
        test_size: likewise.
        seed: of the sampling, and of bundled data.
        batch_size: sequences per batch at most.
        max_tokens: tokens per batch at most, padding included.
        max_length: tokens per sequence at most; None is what the model and tokenizer take.
        allow_overlap: keep examples that two sets share.
        judged: refuse data that nothing can be judged by; else they make a `held_out` set.
        purpose: what the model is made for; None reads it off the config.

    Raises:
        DataError: the data cannot be read, does not fit the model or the kind, or overlaps.
        UnknownNameError: a kind, column or bundled set that does not exist.
    """
    sizes = {"calibration": calibration_size, "selection": selection_size, "test": test_size}
    explicit = {"calibration": calibration, "selection": selection, "test": test}
    _check_sizes(sizes)
    _ = kind is None or KINDS[kind]  # refused before any data is read
    if spec is None and test is None and not judged:
        spec, explicit["calibration"] = calibration, None
    columns = Columns(text_column, text_pair_column, label_column)
    labels = {str(name) for name in config.label2id or ()}
    found, notes = find_splits(spec, explicit, sizes=sizes, seed=seed, labels=labels)
    chosen = KINDS[kind or infer_kind(found["test"], columns, purpose or purpose_of(config))]
    plain = text_kind(chosen)
    bare = not is_judged(found["calibration"], columns, chosen)
    known = is_judged(found["test"], columns, chosen) and can_judge(chosen, config)
    form = chosen if known or judged or kind is not None or test is not None else plain
    kinds = dict.fromkeys(ROLES, form) | {"calibration": plain if bare else form}
    sets, dropped = _disjoint(found, columns, form, bare and form is not plain, allow_overlap)
    limits = {"batch_size": batch_size, "max_tokens": max_tokens, "max_length": max_length}
    make = partial(_task, tokenizer=tokenizer, config=config, **limits)
    tasks = {
        role: make(kinds[role], sets[role], found[role].source, sizes[role], (seed, number))
        for number, role in enumerate(ROLES)
        if role in sets
    }
    if train is None:
        training = make(kinds["calibration"], sets["calibration"], found["calibration"].source)
    else:
        rows = read_split(str(train), "calibration", {"calibration": None}, seed, labels)
        texts, said = keep_apart(read_texts(rows, columns), sets, allow_overlap=allow_overlap)
        training, dropped = make(plain, texts, rows.source), dropped + said
    if issubclass(form, Sentences) and single_rows(config):
        dropped.append("no pad_token_id in the model's config: each batch is one text; set it")
    notes = (*notes, *dropped)
    opened = TaskSet(tasks["calibration"], tasks.get("selection"), tasks["test"], notes, training)
    return replace(opened, test=None, held_out=opened.test) if form is Sentences else opened


def _disjoint(
    found: Mapping[str, Rows],
    columns: Columns,
    form: type[BatchedTask],
    bare: bool,
    allow_overlap: bool,
) -> tuple[dict[str, Examples], list[str]]:
    """Read the sets, and remove what they share; of `bare` calibration rows only the texts."""
    judged = {role: rows for role, rows in found.items() if not bare or role != "calibration"}
    sets = {role: form.read(rows, columns) for role, rows in judged.items()}
    sets, dropped = keep_disjoint(sets, allow_overlap=allow_overlap)
    if bare:
        texts = read_texts(found["calibration"], columns)
        texts, said = keep_apart(texts, sets, role="calibration", allow_overlap=allow_overlap)
        sets["calibration"], dropped = texts, dropped + said
    return sets, dropped


@check_arguments
def open_calibration(
    spec: str | Path,
    tokenizer,
    *,
    config,
    kind: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    calibration_size: int | None = 512,
    seed: int = 0,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    max_length: int | None = None,
) -> Task:
    """Open a calibration set alone, where nothing is judged; plain text will do for any model.

    Args: as of `open_task`.

    Raises:
        DataError: as of `open_task`.
    """
    _check_sizes({"calibration": calibration_size})
    columns = Columns(text_column, text_pair_column, label_column)
    labels = {str(name) for name in config.label2id or ()}
    rows = read_split(
        str(spec), "calibration", {"calibration": calibration_size}, seed=seed, labels=labels
    )
    chosen = KINDS[kind or infer_kind(rows, columns, purpose_of(config))]
    bare = not is_judged(rows, columns, chosen)
    if bare or not can_judge(chosen, config):
        chosen = text_kind(chosen)
    examples = read_texts(rows, columns) if bare else chosen.read(rows, columns)
    limits = {"batch_size": batch_size, "max_tokens": max_tokens, "max_length": max_length}
    drawn = (rows.source, calibration_size, (seed, 0))
    return _task(chosen, examples, *drawn, tokenizer=tokenizer, config=config, **limits)


def _task(
    kind: type[BatchedTask],
    examples: Examples,
    source: str,
    size: int | None = None,
    seed: tuple[int, int] = (0, 0),
    **made: Any,
) -> BatchedTask:
    """Make a task of `size` examples, drawn at random."""
    drawn = examples.sample(size, seed=seed)
    of = "" if len(drawn) == len(examples) else f"the {len(examples)} in "
    return kind(drawn, name=f"{of}{source}", **made)


def _check_sizes(sizes: Mapping[str, int | None]) -> None:
    for role, size in sizes.items():
        if size is not None and size < 1:
            raise DataError(f"{role}_size {size!r} leaves no examples; give 1 or more, or None")


def infer_kind(rows: Rows, columns: Columns, purpose: Purpose = "unknown") -> str:
    """Read the kind of task off the columns; of text alone, off what the model does with it."""
    if PAIR_COLUMNS.issubset(rows.columns):
        return "minimal_pairs"
    if label_column(rows, columns) is not None:
        return "classification"
    return "perplexity" if purpose in ("causal_lm", "unknown") else "classification"


def is_judged(rows: Rows, columns: Columns, kind: type[BatchedTask]) -> bool:
    """Whether rows have what a kind of task judges by: labels, or the worse of two sentences."""
    if issubclass(kind, Sentences):
        return label_column(rows, columns) in rows.columns
    return not issubclass(kind, MinimalPairsTask) or PAIR_COLUMNS.issubset(rows.columns)


def text_kind(kind: type[BatchedTask]) -> type[BatchedTask]:
    """Return what text for the models of a kind of task is opened as."""
    return Sentences if issubclass(kind, Sentences) else PerplexityTask


def keep_apart(
    texts: Examples,
    sets: Mapping[str, Examples],
    *,
    role: str = "training",
    allow_overlap: bool = False,
) -> tuple[Examples, list[str]]:
    """Return texts that are in neither the selection nor the test set; see `keep_disjoint`.

    Of examples with more texts than `texts` have, as minimal pairs, each counts on its own.
    """
    said: list[str] = []
    for other in ("selection", "test"):
        if other in sets:
            pair = {role: texts, other: _split(sets[other], len(texts.texts[0]))}
            pair, notes = keep_disjoint(pair, allow_overlap=allow_overlap)
            texts = pair[role]
            said += notes
    return texts, said


def _split(examples: Examples, width: int) -> Examples:
    if len(examples.texts[0]) <= width:
        return examples
    each = [((text,), row) for row, texts in enumerate(examples.texts) for text in texts]
    origins = examples.origins and [examples.origins[row] for _, row in each]
    return Examples([text for text, _ in each], origins=origins)
