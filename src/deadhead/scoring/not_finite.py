"""Where a forward pass stops being finite."""

from __future__ import annotations

import torch
from torch import Tensor

from deadhead.data.inputs import Batch, call, valid_tokens
from deadhead.losses.answers import logits_of
from deadhead.models.heads import HeadModel


def where_not_finite(view: HeadModel, batch: Batch) -> str | None:
    """Name the first block and head whose output is not finite, or the logits; None if all are.

    Looks at real tokens only. If every head of the block is affected, what came into the block is.

    Cost: one forward pass.
    """
    found: list[str] = []
    valid = valid_tokens(batch)

    def look(number: int, z: Tensor) -> None:
        seen = z[valid] if z.shape[:2] == valid.shape else z.flatten(0, 1)
        finite = torch.isfinite(seen).all(-1).all(0)  # (heads there now,)
        if found or finite.all():
            return
        held = view.blocks[number].original.heads
        heads = [f"{number}.{held[at]}" for at in torch.nonzero(~finite).flatten().tolist()]
        all_of_several = len(heads) == len(held) > 1
        found.append(
            f"block {number}: head outputs are not finite"
            + (" (all of them)" if all_of_several else f" (head {', '.join(heads)})")
        )

    with torch.no_grad(), view.hook_heads(look):
        logits = logits_of(call(view.model, batch))
    if not found and not torch.isfinite(logits).all():
        found.append("after the last block: logits are not finite")
    return found[0] if found else None
