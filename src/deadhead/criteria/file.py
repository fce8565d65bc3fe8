"""file: scores from a file."""

from __future__ import annotations

import numpy as np

from deadhead.criteria.base import register_criterion
from deadhead.errors import DataError
from deadhead.models.heads import HeadModel
from deadhead.types import HeadMask


@register_criterion("file", in_all=False)
class File:
    """Score heads by a table in a file: `file:path=table.npy`, `file:path=all.json:key=taylor`.

    The path is a .npy, .csv, .json, .safetensors, or a pickled tensor (read without executing it);
    the key says which table, in a file that holds several.

    Shape: one number per (block, head) of the uncut model; higher = more important.
    Cost: none. Source: any; e.g. the 40 x 40 tables of LLM-Interpret.

    Raises:
        DataError: no path is given, or the file holds no such table.
        HeadError: the table is for another model.
    """

    def __init__(self, view: HeadModel, path: str = "", key: str = ""):
        if not path:
            raise DataError("criterion 'file' needs a table; write file:path=table.npy")
        from deadhead.interop import read_importance  # reads files as tasks do, which score

        self.view = view
        self.table = read_importance(path, counts=view.mask.counts, key=key or None)

    def scores(self) -> list[np.ndarray]:
        """Return the table's rows, of the heads there now."""
        return [
            np.asarray(row, dtype=np.float64)[list(block.original.heads)]
            for row, block in zip(self.table.values, self.view.blocks, strict=True)
        ]

    def scores_of(self, mask: HeadMask) -> list[np.ndarray]:
        """Return the same, whatever the mask."""
        return self.scores()
