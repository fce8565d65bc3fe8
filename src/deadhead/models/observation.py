"""What one batch shows of a model: gate gradients, projections and output gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from deadhead.display import Brief
from deadhead.errors import UnsupportedModelError
from deadhead.models.blocks import Block


@dataclass(frozen=True, repr=False)
class Projected(Brief):
    """What went through one block's projections in one batch.

    Shape: `inputs` (batch, tokens, hidden), those of the query projection; `source` those of key
    and value where they are others (cross-attention), else None; `query`, `key`, `value`: gradients
    at the projections' outputs, (batch, tokens, heads or key/value heads now, head_dim). A block
    that is applied several times (ALBERT) has its applications one after the other along tokens.
    """

    inputs: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    source: Tensor | None = None


@dataclass(frozen=True, repr=False)
class Observation(Brief):
    """What criteria see of one batch, after its backward pass.

    Attributes:
        batch: number of the batch, for messages.
        samples: samples in it.
        valid: real tokens of the model's main input, (samples, tokens), bool.
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


def by_row(flat: Tensor, block: Block) -> Tensor:
    """Return what enters or leaves a block's output projection as (rows, tokens, features)."""
    if flat.dim() == 3 and block.record.samples == 1:
        flat = flat.transpose(0, 1)
    return flat[:, None] if flat.dim() == 2 else flat.flatten(1, -2)


def per_row(values: Tensor, z: Tensor, block: Block) -> Tensor:
    """Repeat what there is one of per sample for the rows of `z`: choices, windows of an image.

    Raises:
        UnsupportedModelError: a row of `z` is not of one sample.
    """
    if block.record.samples < 0 or not len(values) or len(z) % len(values):
        raise UnsupportedModelError(
            f"block {block.name} mixes the samples of a batch ({len(z)} rows of tokens for"
            f" {len(values)} samples), so its heads have no gradient per sample; choose a criterion"
            " that needs no gradients (magnitude, output_norm, random)"
        )
    return values.repeat_interleave(len(z) // len(values), 0)
