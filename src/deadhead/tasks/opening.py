"""Open the three data sets of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from deadhead.data.examples import Examples, keep_apart, keep_disjoint
from deadhead.data.rows import Columns, Rows
from deadhead.data.splits import ROLES, Spec, find_splits, read_split
from deadhead.errors import DataError
from deadhead.models.purpose import Purpose, purpose_of
from deadhead.options.fields import check_arguments
from deadhead.tasks.kinds import UNJUDGED, check_reader, infer_kind, read_plain, text_kind
from deadhead.tasks.metrics import ComputeMetrics
from deadhead.tasks.mixing import Source, mix, sources_of
from deadhead.tasks.task import KINDS, BatchedTask
from deadhead.tasks.task_set import TaskSet, judged_by


@check_arguments
def open_task(
    spec: Spec | Path | None,
    tokenizer,
    *,
    config,
    kind: str | None = None,
    calibration: str | Path | Sequence[str | Path] | None = None,
    selection: str | Path | None = None,
    train: str | Path | None = None,
    test: str | Path | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    media_column: str | None = None,
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
    compute_metrics: ComputeMetrics | None = None,
    metric: str | None = None,
    greater_is_better: bool | None = None,
) -> TaskSet:
    """Open the calibration, selection and test sets of a run.

    `spec`, and each of the three sets, is one of

    - `bundled:sentiment`, `bundled:agreement`, `bundled:text`: made on the spot, offline;
    - a file (.tsv, .csv, .jsonl, .json, .parquet, .txt) or `FILE[0:800]`, its rows 0 to 799;
    - a folder with files named train, dev and test (or calibration, validation, selection);
    - a folder of other files, whose rows are put below each other, `FOLDER[0:800]` of each;
    - a folder of images or recordings, in a folder per class or without labels, or with a table
      that names them; or of such folders, train, dev and test;
    - a folder that `datasets` saved, or the id of a data set on the hub, `ID:CONFIG`.

    Without splits, the first 80% of the rows of each file calibrate and the last 20% test. The
    three sets are then made disjoint (see `examples.keep_disjoint`: a few shared texts are removed,
    more are refused), and only then sampled.

    Args:
        spec: the data; None if calibration and test are both given.
        tokenizer: the model's, or its processor, for images and recordings too.
        config: the model's.
        kind: a name of `deadhead.tasks.KINDS`, such as `classification`; None reads it off what
            the model is made for and the columns.
        calibration: wins over what `spec` has. Texts without labels will do, for losses that need
            none; for minimal pairs any text. Several are mixed in equal parts, or by the weights
            behind their names (`["a.txt", "b.txt=0.25"]`); their labels are not looked at.
        selection: wins over what `spec` has.
        train: text without labels (labels are not looked at) for `distill`; read by the same
            columns, and of minimal pairs the acceptable sentences.
        test: wins over what `spec` has.
        text_column: name of the text; None looks for `sentence`, `text`, ...
        text_pair_column: name of the second text.
        label_column: name of the label; None looks for `label`, `labels`, ...
        media_column: name of the image or recording; None looks for such files.
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
        compute_metrics: judge by a function of your own, as the Trainer takes it: of a
            `transformers.EvalPrediction` (predictions and label_ids, padded with -100), it returns
            a dictionary of numbers. It is tried on right predictions first.
        metric: which number judges: of `compute_metrics` the first by default; else another metric
            of the kind, such as `macro_f1`.
        greater_is_better: whether more of it is better; by default as the kind knows, of
            `compute_metrics` True.

    Raises:
        DataError: the data cannot be read, does not fit the model or the kind, or overlaps; the
            metrics are no numbers.
        UnknownNameError: a kind, column or bundled set that does not exist.
    """
    sizes = _sizes(calibration=calibration_size, selection=selection_size, test=test_size)
    sources = sources_of(calibration)
    _ = kind is None or KINDS[kind]  # refused before any data is read
    columns = Columns(text_column, text_pair_column, label_column, media_column)
    labels = {str(name) for name in config.label2id or ()}
    spec, explicit = _named(spec, sources, selection, test, judged)
    found, notes = find_splits(spec, explicit, sizes=sizes, seed=seed, labels=labels)
    purpose = purpose or purpose_of(config)
    chosen = KINDS[kind or infer_kind(found["test"], columns, purpose, config)]
    wanted = judged or kind is not None or test is not None
    form, read_as, plain = _forms(chosen, tokenizer, config, found, columns, wanted)
    read_as = read_as if len(sources) < 2 else plain
    sets, dropped = _disjoint(found, columns, form, read_as, allow_overlap)
    limits = {"batch_size": batch_size, "max_tokens": max_tokens, "max_length": max_length}
    make = partial(_task, tokenizer=tokenizer, config=config, **limits)
    kinds = dict.fromkeys(ROLES, form) | {"calibration": read_as}
    draws = {role: (sizes[role], (seed, number)) for number, role in enumerate(ROLES)}
    tasks = {r: make(kinds[r], of, found[r].source, *draws[r]) for r, of in sets.items()}
    read = partial(_texts_of, plain=plain, columns=columns, seed=seed, labels=labels)
    source = found["calibration"].source
    if len(sources) > 1:
        mixture = mix(sources, sets, read, calibration_size, seed, allow_overlap=allow_overlap)
        tasks["calibration"] = make(plain, mixture.drawn, mixture.name)
        sets["calibration"], source, dropped = mixture.whole, mixture.name, dropped + mixture.notes
    training = tasks["calibration"]  # all files, decoded, might not fit into memory
    if train is not None:
        texts, said = keep_apart(read(str(train)), sets, allow_overlap=allow_overlap)
        training, dropped = make(plain, texts, str(train)), dropped + said
    elif form.reads == "text":
        training = make(read_as, sets["calibration"], source)
    opened = _task_set(tasks, training, [*notes, *dropped])
    return judged_by(opened, compute_metrics, metric, greater_is_better)


def _texts_of(
    spec: str,
    size: int | None = None,
    *,
    plain: type[BatchedTask],
    columns: Columns,
    seed: int,
    labels: set[str],
) -> Examples:
    """Read texts without labels; about `size`, of data that are made on the spot."""
    rows = read_split(spec, "calibration", {"calibration": size}, seed, labels)
    return read_plain(plain, rows, columns)


def _task_set(tasks: Mapping[str, BatchedTask], training: Any, notes: Sequence[str]) -> TaskSet:
    """Put tasks together; one that cannot judge is held out."""
    test = tasks["test"]
    judges = type(test) not in UNJUDGED
    said = test.notes() if judges else []
    known = TaskSet(tasks["calibration"], tasks.get("selection"), test, (*notes, *said), training)
    return known if judges else replace(known, test=None, held_out=test)


def _forms(
    chosen: type[BatchedTask],
    tokenizer: Any,
    config: Any,
    found: Mapping[str, Rows],
    columns: Columns,
    wanted: bool,
) -> tuple[type[BatchedTask], type[BatchedTask], type[BatchedTask]]:
    """Return the kinds of the sets that judge, of the calibration set, and of data without labels.

    `wanted`: a kind that cannot judge is refused later, not replaced by data without labels.
    """
    plain = text_kind(chosen)
    check_reader(chosen, tokenizer)
    known = chosen.is_in(found["test"], columns) and chosen.unfit(config) is None
    form = chosen if wanted or (known and not chosen.costly) else plain  # costly: judges if asked
    return form, form if chosen.is_in(found["calibration"], columns) else plain, plain


def _disjoint(
    found: Mapping[str, Rows],
    columns: Columns,
    form: type[BatchedTask],
    read_as: type[BatchedTask],
    allow_overlap: bool,
) -> tuple[dict[str, Examples], list[str]]:
    """Read the sets, and remove what they share; the calibration rows as `read_as`."""
    apart = read_as is not form
    judged = {role: rows for role, rows in found.items() if not apart or role != "calibration"}
    sets = {role: form.read(rows, columns) for role, rows in judged.items()}
    sets, dropped = keep_disjoint(sets, allow_overlap=allow_overlap)
    if apart:
        texts = read_plain(read_as, found["calibration"], columns)
        texts, said = keep_apart(texts, sets, role="calibration", allow_overlap=allow_overlap)
        sets["calibration"], dropped = texts, dropped + said
    return sets, dropped


@check_arguments
def open_calibration(
    spec: str | Path | Sequence[str | Path],
    tokenizer,
    *,
    config,
    kind: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    media_column: str | None = None,
    calibration_size: int | None = 512,
    seed: int = 0,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    max_length: int | None = None,
) -> BatchedTask:
    """Open a calibration set alone, where nothing is judged; plain text will do for any model.

    Args: as of `open_task`.

    Raises:
        DataError: as of `open_task`.
    """
    _ = _sizes(calibration=calibration_size)
    columns = Columns(text_column, text_pair_column, label_column, media_column)
    labels = {str(name) for name in config.label2id or ()}
    first, *others = sources_of(spec)
    rows = read_split(
        first.spec, "calibration", {"calibration": calibration_size}, seed=seed, labels=labels
    )
    chosen = KINDS[kind or infer_kind(rows, columns, purpose_of(config), config)]
    bare = bool(others) or not chosen.is_in(rows, columns)
    if bare or chosen.unfit(config) is not None:
        chosen = text_kind(chosen)
    check_reader(chosen, tokenizer)
    examples = read_plain(chosen, rows, columns) if bare else chosen.read(rows, columns)
    limits = {"batch_size": batch_size, "max_tokens": max_tokens, "max_length": max_length}
    make = partial(_task, tokenizer=tokenizer, config=config, **limits)
    if not others:
        return make(chosen, examples, rows.source, calibration_size, (seed, 0))
    read = partial(_texts_of, plain=chosen, columns=columns, seed=seed, labels=labels)
    mixture = mix([first, *others], {"calibration": examples}, read, calibration_size, seed)
    return make(chosen, mixture.drawn, mixture.name)


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


def _sizes(**sizes: int | None) -> Mapping[str, int | None]:
    for role, size in sizes.items():
        if size is not None and size < 1:
            raise DataError(f"{role}_size {size!r} leaves no examples; give 1 or more, or None")
    return sizes


def _named(
    spec: Spec | Path | None,
    sources: Sequence[Source],
    selection: str | Path | None,
    test: str | Path | None,
    judged: bool,
) -> tuple[Spec | Path | None, dict[str, str | Path | None]]:
    """Return what is divided into sets, and the sets that have a name of their own."""
    first = sources[0].spec if sources else None
    if spec is None and test is None and not judged:  # calibration texts and nothing else
        return first, {"calibration": None, "selection": selection, "test": None}
    return spec, {"calibration": first, "selection": selection, "test": test}
