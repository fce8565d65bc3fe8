"""bias: the mean of what was removed, added to the output bias."""

from __future__ import annotations

from deadhead.repair.base import BlockFit, Fit, register_repair


@register_repair("bias")
def bias(block: BlockFit) -> Fit:
    """Keep the block's mean output: `b + (W - W_cut) E[x]`. Weights stay as surgery leaves them.

    Cost: one product. Source: FLAP (An et al. 2024, arXiv 2312.11983), eq. 8.
    """
    return Fit(block.cut, block.bias + (block.dense - block.cut) @ block.moments.mean)
