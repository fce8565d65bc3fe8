"""A class for each image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead.data.batches import Batch
from deadhead.data.encoding import LazyBatches
from deadhead.data.examples import Examples
from deadhead.data.rows import Columns, Rows, label_column, read_labels
from deadhead.data.tokens import Packed
from deadhead.errors import DataError
from deadhead.losses.answers import widened
from deadhead.tasks.classification import ClassificationTask
from deadhead.tasks.evaluation import finite, other_shape
from deadhead.tasks.media import MediaTask, is_dual, text_inputs
from deadhead.tasks.task import register_task

PROMPT = "a photo of a {}"  # what CLIP was tried with first


@register_task("image_classification")
class ImageClassificationTask(MediaTask, ClassificationTask):
    """Judge an image classifier by accuracy; macro F1 and Matthews correlation as well.

    Images are the files of a folder per class, of a table's column, or of a `datasets` set. Labels
    are read as those of texts are. A model of images and texts without classes (CLIP) is judged
    zero-shot: the class is the one whose "a photo of a NAME" is nearest to the image, among the
    classes of these examples.

    Unit: fractions in [0, 1] (mcc in [-1, 1]); higher is better.
    """

    wants = "an image classifier, or a model of images and texts such as CLIP"

    def __init__(self, examples: Examples, tokenizer: Any, *, config: Any, **made: Any) -> None:
        if is_dual(config) and examples.labels is not None:
            config = _with_classes(config, examples.labels)
        super().__init__(examples, tokenizer, config=config, **made)

    @classmethod
    def read(cls, rows: Rows, columns: Columns) -> Examples:
        """Find the images and labels in rows of a table, or of a folder per class."""
        label = label_column(rows, columns)
        if label is None:
            raise DataError(
                f"task kind {cls.kind!r} does not fit {rows.source!r}: no label among its columns"
                f" {', '.join(rows.columns)}; name it with --label-column (label_column), or put"
                " the images into a folder per class; images alone can be the --calibration"
            )
        labels = read_labels(rows, label)
        return Examples(
            [(each,) for each in cls.media(rows, columns)], labels=labels, origins=rows.origins
        )

    @classmethod
    def unfit(cls, config: Any) -> str | None:
        """Say why a model does not predict one class of several."""
        return None if is_dual(config) else super().unfit(config)

    def label(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Return the classes of a batch; of a zero-shot model each image's own text instead."""
        if not is_dual(self.config):
            return {"labels": torch.from_numpy(self.targets[rows])}
        return {name: tensor[self.targets[rows]] for name, tensor in self._prompts.items()}

    @cached_property
    def evaluated(self) -> Sequence[Packed]:
        """The batches of `batches`; of a zero-shot model each beside the texts of all classes."""
        if not is_dual(self.config):
            return self._packed
        runs = self.runs
        return LazyBatches(runs, lambda number: {**self.decode(runs[number]), **self._prompts})

    @cached_property
    def _prompts(self) -> Batch:
        """The texts of all classes, (classes, tokens)."""
        names = sorted(self.config.label2id, key=self.config.label2id.__getitem__)
        return text_inputs([PROMPT.format(name.replace("_", " ")) for name in names], self)

    def predict(self, model: nn.Module, outputs: Any, batch: Batch) -> torch.Tensor:
        """Return the logits, (batch, labels)."""
        if not is_dual(self.config):
            return super().predict(model, outputs, batch)
        logits = getattr(outputs, "logits_per_image", None)
        if logits is None:
            raise DataError(
                f"a {type(model).__name__} does not compare images with texts; use an image"
                " classifier, or a model such as CLIPModel"
            )
        if logits.shape[1] != self.config.num_labels:
            raise other_shape(model, logits, f"[images, {self.config.num_labels}]", self.kind)
        return finite(widened(logits))


def _with_classes(config: Any, labels: Sequence[Any]) -> Any:
    """Return a config whose classes are the names among some labels."""
    names = sorted({str(getattr(label, "name", label)).strip() for label in labels})
    if len(names) < 2 or all(name.lstrip("-").isdigit() for name in names):
        raise DataError(
            "to classify zero-shot, classes need names, 2 or more: these labels are"
            f" {', '.join(names)[:80]}; write names, such as of the folders"
        )
    made = copy.deepcopy(config)
    made.id2label = dict(enumerate(names))
    made.label2id = {name: index for index, name in enumerate(names)}
    return made
