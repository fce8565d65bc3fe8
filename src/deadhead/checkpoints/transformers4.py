"""Checkpoints that transformers 4 pruned: their config lists `pruned_heads`."""

from __future__ import annotations

import copy
from typing import Any

import torch

from deadhead.models.heads import HeadModel
from deadhead.models.manifest import manifest_of
from deadhead.surgery.plans import heads_of_blocks
from deadhead.surgery.remove import cut_, cuts_of
from deadhead.types import PruningPlan


def manifest_of_pruned_heads(model_class: Any, config: Any) -> dict[str, Any]:
    """Say in our manifest what the `pruned_heads` of a config says, which transformers 4 wrote.

    The entry of the config is taken out: transformers 5 does not read it.
    """
    pruned = config.__dict__.pop("pruned_heads")
    with torch.device("meta"):
        model = model_class._from_config(copy.deepcopy(config))
    view = HeadModel(model)
    mask = view.mask.drop(*heads_of_blocks(pruned))
    for block, cut in zip(view.blocks, cuts_of(view, PruningPlan(mask)), strict=True):
        cut_(block, cut)
    view.refresh()
    return manifest_of(view).to_dict()
