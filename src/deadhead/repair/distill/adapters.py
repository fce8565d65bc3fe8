"""Low-rank adapters on the projections of the blocks that lost heads, merged at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from deadhead.errors import HeadError
from deadhead.models.blocks import is_conv1d
from deadhead.models.heads import HeadModel
from deadhead.repair.distill.state import Sleepers


def cut_projections(view: HeadModel, sleepers: Sleepers) -> dict[str, nn.Module]:
    """Return the projections, by path, of the blocks that lost heads; those of no head left out.

    Raises:
        HeadError: no block has lost a head, or each that has lost them all.
    """
    paths = {module: path for path, module in view.model.named_modules()}
    found: dict[str, nn.Module] = {}
    for block, columns in zip(view.blocks, sleepers.columns, strict=True):
        if block.n_heads == block.original.n_heads and not columns.any():
            continue
        for module in (block.query, block.key, block.value, block.output):
            if block.n_heads:
                found[paths[module]] = module
    if not found:
        raise HeadError(
            "no projection can have an adapter: no block lost some of its heads only; train the"
            " weights themselves (lora=0)"
        )
    return found


@dataclass
class Adapters:
    """Adapters that are in a model.

    Attributes:
        merge: whether they are added to the weights when the context is left, or thrown away.
    """

    merge: bool = False


@contextmanager
def adapted(model: nn.Module, projections: dict[str, nn.Module], rank: int) -> Iterator[Adapters]:
    """Put adapters on projections; only they are trained. No trace of them is left afterwards.

    They are scaled by 2, as is usual. Source: Hu et al. 2021 (arXiv 2106.09685).
    """
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="|".join(map(re.escape, projections)),
        fan_in_fan_out=any(map(is_conv1d, projections.values())),
    )
    tuned = LoraModel(model, config, "default")
    adapters = Adapters()
    try:
        yield adapters
    finally:
        (tuned.merge_and_unload if adapters.merge else tuned.unload)()
