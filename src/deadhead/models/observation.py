"""What one batch shows of a model: gate gradients, projections and output gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from deadhead.display import Brief


@dataclass(frozen=True, repr=False)
class Projected(Brief):
    """What went through one block's projections in one batch.

    Shape: `inputs` (batch, tokens, hidden); `query`, `key`, `value`: gradients at the projections'
    outputs, (batch, tokens, heads or key/value heads now, head_dim). A block that is applied
    several times (ALBERT) has its applications one after the other along tokens.
    """

    inputs: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True, repr=False)
class Observation(Brief):
    """What criteria see of one batch, after its backward pass.

    Attributes:
        batch: number of the batch, for messages.
        samples: samples in it.
        valid: real tokens, (samples, tokens), bool.
        gate_gradients: per block (samples, heads now): dLoss_i / dg_i.
        projected: per block, if needed.
        output_gradients: per block, if needed, (samples, tokens, hidden): the gradient at the
            output projection's output. Applications of a shared block come one after the other
            along tokens.
    """

    batch: int
    samples: int
    valid: Tensor
    gate_gradients: Sequence[Tensor] = ()
    projected: Sequence[Projected | None] = ()
    output_gradients: Sequence[Tensor | None] = ()
