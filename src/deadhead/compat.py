"""What transformers 4 had for heads and transformers 5 has removed, with the old meaning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.errors import HeadError
from deadhead.models.heads import HeadModel
from deadhead.surgery.plans import as_view, heads_of_blocks
from deadhead.surgery.remove import remove_
from deadhead.types import PruningPlan

STACKS = {
    "head_mask": "encoder",
    "decoder_head_mask": "decoder",
    "cross_attn_head_mask": "decoder.cross",
}


def prune_heads(model: nn.Module, heads_to_prune: Mapping[Any, Iterable[int]]) -> None:
    """Remove heads in place, as `PreTrainedModel.prune_heads` of transformers 4 did.

    Heads are numbered as in the uncut model, also after an earlier cut; those that are gone
    already are passed over. Unlike then, every model type with a record is cut, a block may lose
    all of its heads, and shared key/value heads are copied where single heads of a group go.

    Args:
        model: the model, with any head on top.
        heads_to_prune: the heads to remove by block: `{0: [1, 2], 5: [0]}`.

    Raises:
        HeadError: the model has no such head.
        UnsupportedModelError: its type has no record.

    Example:
        >>> import deadhead
        >>> model = deadhead.load_model("bundled:encoder").model
        >>> prune_heads(model, {0: [1, 2], 3: [5]})
        >>> deadhead.HeadModel(model).mask.n_kept
        21
    """
    view = as_view(model)
    remove_(
        view, PruningPlan(view.mask.drop(*heads_of_blocks(dict(heads_to_prune))), gqa="ungroup")
    )


def find_pruneable_heads_and_indices(
    heads: Iterable[int], n_heads: int, head_size: int, already_pruned_heads: Iterable[int]
) -> tuple[set[int], Tensor]:
    """Return the heads that are still to be removed, and the features that stay.

    Args:
        heads: heads to remove, numbered as in the uncut model.
        n_heads: heads in the weights now.
        head_size: features per head.
        already_pruned_heads: heads that are gone from the weights.

    Shape: (heads, indices of (features kept,)), of the features in the weights now.
    """
    gone = set(already_pruned_heads)
    wanted = set(heads) - gone
    numbers = [number for number in range(n_heads + len(gone)) if number not in gone]
    kept = torch.tensor([number not in wanted for number in numbers[:n_heads]], dtype=torch.bool)
    return wanted, torch.arange(n_heads * head_size)[kept.repeat_interleave(head_size)]


def prune_linear_layer(layer: nn.Linear, index: Tensor, dim: int = 0) -> nn.Linear:
    """Return a linear layer that keeps some outputs (`dim=0`) or inputs (`dim=1`) of another.

    Args:
        layer: the layer; stays as it is.
        index: (features kept,) which ones.
        dim: of the weight.
    """
    index = index.to(layer.weight.device)
    weight = layer.weight.detach().index_select(dim, index)
    bias = layer.bias
    made: Any = nn.utils.skip_init(
        nn.Linear,
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias if dim == 1 else bias[index])
    return made.train(layer.training)


@contextmanager
def head_mask(
    model: nn.Module | HeadModel,
    mask: Tensor | Sequence[Any] | None = None,
    *,
    decoder_head_mask: Tensor | Sequence[Any] | None = None,
    cross_attn_head_mask: Tensor | Sequence[Any] | None = None,
) -> Iterator[nn.Module]:
    """Scale heads as the arguments `head_mask`, ... of transformers 4 did, until the context ends.

    Numbers between 0 and 1 scale a head, and gradients reach a mask that requires them: the way
    that Michel et al. (2019) score heads. As the attention weights of a head and its output are
    proportional, this equals what transformers 4 did.

    Args:
        model: the model.
        mask: of an encoder, or of the only stack. Shape (heads,), (blocks, heads), (blocks, batch,
            heads), or the latter with dimensions of 1 behind, as transformers 4 had it inside.
        decoder_head_mask: of the self-attention of a decoder beside an encoder.
        cross_attn_head_mask: of its cross-attention.

    Raises:
        HeadError: a mask has another shape, or the model has no such stack.
        ModelInUseError: another thread masks, scores or changes the model.

    Example:
        >>> import deadhead, torch
        >>> loaded = deadhead.load_model("bundled:encoder")
        >>> mask = torch.ones(4, 6, requires_grad=True)
        >>> with head_mask(loaded.model, mask) as model:
        ...     inputs = loaded.tokenizer(["a good film"], return_tensors="pt")
        ...     model(**inputs, labels=torch.tensor([2])).loss.backward()
        >>> mask.grad.abs().shape
        torch.Size([4, 6])
    """
    view = as_view(model)
    given = {"head_mask": mask, "decoder_head_mask": decoder_head_mask}
    given["cross_attn_head_mask"] = cross_attn_head_mask
    gates: list[Tensor] = [torch.ones(b.n_heads, dtype=torch.bool) for b in view.blocks]
    for name, values in given.items():
        if values is None:
            continue
        numbers = _blocks_of(view, name)
        for row, number in zip(_rows(values, view, numbers, name), numbers, strict=True):
            heads = list(view.blocks[number].original.heads)
            gates[number] = row[..., heads]
    with view.gated(gates):
        yield view.model


def _blocks_of(view: HeadModel, name: str) -> list[int]:
    """Return the numbers of the blocks that an argument is about."""
    stacks = [block.record.stack for block in view.blocks]
    only = name == "head_mask" and len(set(stacks)) == 1
    numbers = [n for n, stack in enumerate(stacks) if only or stack == STACKS[name]]
    if not numbers:
        known = ", ".join(dict.fromkeys(stacks)) or "one stack, whose argument is head_mask"
        raise HeadError(
            f"{name} is for the stack {STACKS[name]!r}, and this model has {known}; use"
            " HeadModel(model).gated for other stacks"
        )
    return numbers


def _rows(values: Any, view: HeadModel, numbers: list[int], name: str) -> list[Tensor]:
    """Divide a mask by block: (heads,) or (batch, heads) each."""
    mask = values if isinstance(values, Tensor) else torch.as_tensor(values, dtype=torch.float32)
    heads = {view.blocks[n].original.n_heads for n in numbers}
    while mask.dim() > 3 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.dim() == 1:
        mask = mask.expand(len(numbers), -1)
    if mask.dim() not in (2, 3) or len(mask) != len(numbers) or {mask.shape[-1]} != heads:
        raise HeadError(
            f"{name} has shape {list(mask.shape)}; give (heads,), (blocks, heads) or (blocks,"
            f" batch, heads) for {len(numbers)} blocks of {sorted(heads)} heads"
        )
    if mask.dim() == 3 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.dtype == torch.bool or not mask.is_floating_point():
        mask = mask.to(torch.float32)
    return list(mask)
