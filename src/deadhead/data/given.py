"""Batches from what a person holds: texts, a data set, a data loader, a file name, a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from deadhead.data.batches import Batch, check_batch, vocabulary_of
from deadhead.data.inputs import MAIN_INPUTS
from deadhead.data.rows import Columns, Rows, read_texts, rows_of, targets_of
from deadhead.data.tokens import (
    MAX_TOKENS,
    check_batching,
    context_length,
    encode,
    pack,
    padding_id,
    windows,
)
from deadhead.errors import DataError
from deadhead.models.purpose import is_causal_lm, purpose_of

# what `source_of` makes of data: the name of a file or data set, tables, or batches
Source = str | Path | Rows | dict[str, Rows] | list[Batch]

WANTED = (
    "a list of texts, a datasets.Dataset, a pandas DataFrame, a DataLoader or another iterable of"
    " batches, a file name, or a task"
)


def as_batches(
    data: Any,
    model: nn.Module,
    tokenizer: Any = None,
    *,
    size: int | None = 512,
    seed: int = 0,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    max_length: int | None = None,
) -> list[Batch]:
    """Make padded batches for a model from whatever holds its calibration data.

    Texts are tokenized with special tokens; for causal language models they are cut into windows.
    A classifier's labels are kept where the data has them; no other text keeps labels.

    Args:
        data: a list of texts or of pairs of texts; a `datasets.Dataset` or `DatasetDict` (its train
            split); a pandas frame; a DataLoader or another iterable of batches (dictionaries of
            tensors, with `labels` or without); a file name or data set as of `open_task`; a task,
            or the tasks of `open_task` (their calibration set).
        model: the model that will read them.
        tokenizer: the model's; batches need none.
        size: texts drawn at random without replacement; of an iterator, which is not read to its
            end, the first texts or samples; None: all. Lists of batches are taken whole.
        seed: of the drawing, and of bundled data.
        text_column: name of the text; None looks for `sentence`, `text`, ...
        text_pair_column: name of the second text.
        label_column: name of the label; None looks for `label`, `labels`, ...
        batch_size: sequences per batch at most; batches are left as they are.
        max_tokens: tokens per batch at most, padding included.
        max_length: tokens per sequence at most; None is what the model and tokenizer take.

    Raises:
        DataError: there are no data, or they are not what is listed or do not fit the model.
        UnknownNameError: there is no such column or bundled set.
    """
    from deadhead.data.splits import read_split  # loads readers of every kind of file

    check_batching(batch_size, max_tokens)
    source = source_of(data, model, size)
    if isinstance(source, list):
        return source
    columns = Columns(text_column, text_pair_column, label_column)
    config = getattr(model, "config", None)
    labels = {str(name) for name in getattr(config, "label2id", None) or ()}
    named = str(source) if isinstance(source, Path) else source
    rows = read_split(named, "calibration", {"calibration": size}, seed, labels)
    check_tokenizer(tokenizer)
    examples = read_texts(rows, columns, labels=purpose_of(model) == "classification")
    examples = examples.sample(size, seed=(seed, 0))
    limit = context_length(tokenizer, config, max_length)
    if is_causal_lm(model):
        sequences, _ = windows([texts[0] for texts in examples.texts], tokenizer, limit)
    else:
        sequences = encode(examples.texts, tokenizer, limit)
    targets = None if examples.labels is None else targets_of(examples.labels, config)
    batches = []
    for packed in pack(
        sequences,
        padding_id(tokenizer, config),
        batch_size=batch_size,
        max_tokens=max_tokens or MAX_TOKENS,
    ):
        if targets is not None:
            packed.batch["labels"] = targets[packed.rows]
        check_batch(packed.batch, vocabulary=vocabulary_of(model))
        batches.append(packed.batch)
    return batches


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what does not tokenize."""
    if tokenizer is None:
        raise DataError(
            "texts need a tokenizer; give the model's, such as"
            " tokenizer=AutoTokenizer.from_pretrained(...), or give batches"
        )
    if not callable(tokenizer) or not hasattr(tokenizer, "pad_token_id"):
        raise DataError(
            f"a {type(tokenizer).__name__} is not a tokenizer; give the model's, such as"
            " AutoTokenizer.from_pretrained(...)"
        )


def source_of(data: Any, model: nn.Module | None = None, size: int | None = None) -> Source:
    """Say what data are: a name, a table, tables by split, or batches, which are checked.

    Args:
        data: see `as_batches`.
        model: checks token ids.
        size: samples or texts to take from an iterator at most.
    """
    data = getattr(data, "calibration", data)  # of several tasks
    if callable(getattr(data, "batches", None)):
        data = list(data.batches())
    if isinstance(data, str | Path | Rows):
        return data
    if isinstance(data, pd.DataFrame | pd.Series):
        frame = data.to_frame("text") if isinstance(data, pd.Series) else data
        return Rows.of(_filled(frame.reset_index(drop=True)), "the data frame")
    if type(data).__module__.partition(".")[0] == "datasets":
        return _of_datasets(data, size)
    if isinstance(data, Mapping) and MAIN_INPUTS.keys() & set(data):
        data = [data]  # one batch
    if isinstance(data, Mapping) and all(isinstance(v, list | tuple) for v in data.values()):
        return _of_columns(data)
    if isinstance(data, Tensor | Mapping | bytes | nn.Module) or not isinstance(data, Iterable):
        raise DataError(f"a {type(data).__name__} is not data for a model; give {WANTED}")
    return _of_items(data, model, size)


def _of_items(data: Iterable[Any], model: nn.Module | None, size: int | None) -> Source:
    items = iter(data)
    first = next(items, None)
    if first is None:
        raise DataError(f"the data are empty (a used-up iterator is, too); give {WANTED}")
    items = chain([first], items)
    if isinstance(first, Mapping) and not any(isinstance(v, str) for v in first.values()):
        return _of_batches(items, model, None if isinstance(data, Sequence) else size)
    one_by_one = not hasattr(data, "__len__") and size is not None
    texts = list(islice(items, size)) if one_by_one else list(items)
    pair = isinstance(first, tuple | list) and len(first) == 2
    for number, item in enumerate(texts):
        fits = isinstance(item, Mapping) if isinstance(first, Mapping) else _is_text(item, pair)
        if not fits:
            raise DataError(
                f"item {number} of the data is a {type(item).__name__}, not a text; give {WANTED}"
            )
    names = ["sentence1", "sentence2"] if pair else ["text"]
    frame = pd.DataFrame(texts, columns=None if isinstance(first, Mapping) else pd.Index(names))
    return Rows.of(_filled(frame), "the texts")


def _of_batches(items: Iterable[Any], model: nn.Module | None, size: int | None) -> list[Batch]:
    vocabulary = None if model is None else vocabulary_of(model)
    batches: list[Batch] = []
    samples = 0
    for number, item in enumerate(items):
        if size is not None and samples >= size:
            break
        batch = _tensors(item, number)
        check_batch(batch, number, vocabulary)
        batches.append(batch)
        samples += len(next(iter(batch.values())))
    if not samples:
        raise DataError("the batches have no samples; give at least one")
    return batches


def _tensors(item: Any, number: int) -> Batch:
    """Turn what a collator returns into tensors; texts that came along are left out."""
    if not isinstance(item, Mapping):
        return item  # refused by `check_batch`
    batch: Batch = {}
    for name, value in item.items():
        if isinstance(value, list | tuple | np.ndarray):
            if len(value) and isinstance(value[0], str):
                continue
            try:
                value = torch.as_tensor(np.array(value))
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"batch {number} has rows of unequal length as {name!r}; pad them, such as with"
                    " tokenizer(texts, padding=True, return_tensors='pt')"
                ) from error
        batch["labels" if name == "label" else str(name)] = value
    return batch


def _of_datasets(data: Any, size: int | None) -> Source:
    if isinstance(data, dict):
        if not data:
            raise DataError("the DatasetDict is empty; give one with a train split")
        tables = {str(name): _of_datasets(part, size) for name, part in data.items()}
        splits = {name: part for name, part in tables.items() if isinstance(part, Rows)}
        return splits if len(splits) > 1 else next(iter((splits or tables).values()))
    names = list(getattr(data, "column_names", None) or ())
    if "input_ids" in names:
        raise DataError(
            "the data set is tokenized already; give a DataLoader over it, with a collator that"
            " pads, or the texts and a tokenizer"
        )
    if hasattr(data, "to_pandas"):
        rows = rows_of(data, "the data set", "")
        _filled(rows.frame)
        return rows
    return _of_items(data, None, size)  # a stream


def _of_columns(data: Mapping[Any, Sequence[Any]]) -> Rows:
    try:
        return Rows.of(_filled(pd.DataFrame(dict(data))), "the columns")
    except ValueError as error:
        raise DataError(
            f"the columns of the data differ in length ({error}); correct them"
        ) from error


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        raise DataError("the data have no rows; give at least one")
    return frame


def _is_text(item: Any, pair: bool) -> bool:
    if not pair:
        return isinstance(item, str)
    both = isinstance(item, tuple | list) and len(item) == 2
    return both and all(isinstance(text, str) for text in item)
