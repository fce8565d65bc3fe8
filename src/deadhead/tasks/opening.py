"""Open the three data sets of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deadhead.data.examples import Examples
from deadhead.data.overlap import keep_disjoint
from deadhead.data.rows import PAIR_COLUMNS, Columns, Rows
from deadhead.data.splits import ROLES, find_splits, read_split
from deadhead.errors import DataError
from deadhead.tasks.classification import LABEL_COLUMNS
from deadhead.tasks.task import BatchedTask, Task, task_kind
from deadhead.tasks.texts import is_judged, keep_apart, read_texts, text_kind


@dataclass(frozen=True)
class TaskSet:
    """Three disjoint sets of one kind: to score on, to stop by, and to report once.

    Attributes:
        calibration: what criteria score on and repairs fit.
        selection: what decides when to stop; None where the data has no such split.
        test: what is reported.
        notes: how the rows were divided, and what was dropped for it.
        training: what `distill` trains on: all of what the calibration set was drawn from, or text
            of its own, disjoint from selection and test too; None: the calibration set.
    """

    calibration: Task
    selection: Task | None
    test: Task
    notes: tuple[str, ...] = ()
    training: Task | None = None

    def describe(self, *, trains: bool = False) -> str:
        """Say what came from where, a line per set; of the training set if anything is trained."""
        lines = [f"{self.test.kind}, judged by {self.test.metric}"]
        for role in ROLES:
            task = getattr(self, role)
            lines.append(
                f"  {role}: none"
                if task is None
                else f"  {role}: {task.size} examples of {task.name},"
                f" fingerprint {task.fingerprint}"
            )
        if trains and self.training is not None:
            of = f"{self.training.size} examples of {self.training.name}"
            lines.append(f"  training: {of}, fingerprint {self.training.fingerprint}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def __str__(self) -> str:
        return self.describe()


def open_task(
    spec: str | Path | None,
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
) -> TaskSet:
    """Open the calibration, selection and test sets of a run.

    `spec`, and each of the three sets, is one of

    - `bundled:sentiment`, `bundled:agreement`, `bundled:text`: made on the spot, offline;
    - a file (.tsv, .csv, .jsonl, .json, .parquet, .txt) or `FILE[0:800]`, its rows 0 to 799;
    - a folder with files named train, dev and test (or calibration, validation, selection);
    - a folder of other files, whose rows are put below each other, `FOLDER[0:800]` of each;
    - a folder that `datasets` saved, or the id of a data set on the hub, `ID:CONFIG`.

    Without splits, the first 80% of the rows of each file calibrate and the last 20% test. The
    three sets are then made disjoint (see `overlap.keep_disjoint`: a few shared texts are dropped,
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

    Raises:
        DataError: the data cannot be read, does not fit the model or the kind, or overlaps.
        UnknownNameError: a kind, column or bundled set that does not exist.
    """
    sizes = {"calibration": calibration_size, "selection": selection_size, "test": test_size}
    explicit = {"calibration": calibration, "selection": selection, "test": test}
    for role, size in sizes.items():
        _check_size(role, size)
    if kind is not None:
        task_kind(kind)  # before any data is read
    columns = Columns(text_column, text_pair_column, label_column)
    labels = {str(name) for name in config.label2id or ()}
    found, notes = find_splits(spec, explicit, sizes=sizes, seed=seed, labels=labels)
    chosen = task_kind(kind or infer_kind(found["test"], columns, config))
    bare = not is_judged(found["calibration"], columns, chosen)
    judged = {role: rows for role, rows in found.items() if not bare or role != "calibration"}
    sets = {role: chosen.read(rows, columns) for role, rows in judged.items()}
    sets, dropped = keep_disjoint(sets, allow_overlap=allow_overlap)
    how = {"batch_size": batch_size, "max_tokens": max_tokens, "max_length": max_length}
    if bare:
        texts = read_texts(found["calibration"], columns)
        apart = {"role": "calibration", "allow_overlap": allow_overlap}
        sets["calibration"], said = keep_apart(texts, sets, **apart)
        dropped += said

    def task(kind: type[BatchedTask], examples: Examples, name: str) -> BatchedTask:
        return kind(examples, tokenizer, config=config, name=name, **how)

    tasks: dict[str, BatchedTask] = {}
    calibrated = text_kind(chosen) if bare else chosen
    for number, role in enumerate(ROLES):
        if role in sets:
            drawn, name = _drawn(sets[role], sizes[role], (seed, number), found[role])
            tasks[role] = task(calibrated if role == "calibration" else chosen, drawn, name)
    if train is None:
        training = task(calibrated, sets["calibration"], found["calibration"].source)
    else:
        rows = read_split(str(train), "calibration", {"calibration": None}, seed, labels)
        texts, said = keep_apart(read_texts(rows, columns), sets, allow_overlap=allow_overlap)
        training = task(text_kind(chosen), texts, rows.source)
        dropped += said
    return TaskSet(
        tasks["calibration"],
        tasks.get("selection"),
        tasks["test"],
        (*notes, *dropped),
        training,
    )


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
    _check_size("calibration", calibration_size)
    columns = Columns(text_column, text_pair_column, label_column)
    labels = {str(name) for name in config.label2id or ()}
    rows = read_split(
        str(spec), "calibration", {"calibration": calibration_size}, seed=seed, labels=labels
    )
    chosen = task_kind(kind or infer_kind(rows, columns, config))
    bare = not is_judged(rows, columns, chosen)
    examples = read_texts(rows, columns) if bare else chosen.read(rows, columns)
    drawn, name = _drawn(examples, calibration_size, (seed, 0), rows)
    how = {"batch_size": batch_size, "max_tokens": max_tokens, "max_length": max_length}
    opened = text_kind(chosen) if bare else chosen
    return opened(drawn, tokenizer, config=config, name=name, **how)


def _check_size(role: str, size: int | None) -> None:
    if size is not None and size < 1:
        raise DataError(f"{role}_size {size!r} leaves no examples; give 1 or more, or None")


def _drawn(
    examples: Examples, size: int | None, seed: tuple[int, int], rows: Rows
) -> tuple[Examples, str]:
    """Return a sample of examples, and its name."""
    drawn = examples.sample(size, seed=seed)
    of = "" if len(drawn) == len(examples) else f"the {len(examples)} in "
    return drawn, f"{of}{rows.source}"


def _classifies(config: Any) -> bool:
    made = getattr(config, "architectures", None) or ()
    return any(name.endswith("ForSequenceClassification") for name in made)


def infer_kind(rows: Rows, columns: Columns, config: Any = None) -> str:
    """Read the kind of task off the columns; of text alone, off what the model does with it."""
    if PAIR_COLUMNS.issubset(rows.columns):
        return "minimal_pairs"
    if columns.label is not None or rows.first_column(LABEL_COLUMNS) is not None:
        return "classification"
    return "classification" if _classifies(config) else "perplexity"
