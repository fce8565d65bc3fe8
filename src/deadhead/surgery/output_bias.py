"""An output bias for projections that have none, so that a repair can keep a block's mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from deadhead.models.blocks import Block


def add_output_bias_(block: Block) -> None:
    """Give a block's output projection a bias of zeros, in place, if it has none.

    The block's own record says so, and with it the manifest of a checkpoint. `block` may be older
    than its last cut. The caller refreshes the view.
    """
    module: Any = block.output
    if module.bias is not None:
        return
    rows = module.weight.new_zeros(module.weight.shape[0])
    module.bias = nn.Parameter(rows, requires_grad=module.weight.requires_grad)
    original = getattr(block.attention, "deadhead_heads", block.original)  # as the last cut left it
    block.attention.deadhead_heads = replace(original, output_bias=True)  # type: ignore[assignment]
