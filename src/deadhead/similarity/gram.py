"""Inner products of the attention maps of heads, summed over prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deadhead.data.batches import Batch, aligned, call, to_device, valid_tokens, without_empty
from deadhead.display import Brief
from deadhead.errors import DataError, check_name, not_finite
from deadhead.models.heads import HeadModel
from deadhead.models.maps import hook_maps
from deadhead.surgery.plans import as_view
from deadhead.types import Head

GRAM_SCOPES = ("global", "per_block")
FIRST_TOKEN = ("drop", "keep", "renormalize")

_WIDE = 1 << 21  # elements of maps that are held as float64 at once
_STORED = 1 << 24  # elements of maps that wait for the last block (scope="global")


@dataclass(frozen=True, eq=False, repr=False)
class HeadGrams(Brief):
    """Inner products of head vectors, added up over prompts.

    Attributes:
        matrices: per cell (heads, heads), float64. A cell is a block, or the whole model for
            `scope="global"`.
        heads: which heads the rows of each matrix are; heads that the model has lost do not appear.
        prompts: number of prompts seen.
        provenance: scope, include_padding, first_token and the number of tokens seen.
    """

    matrices: tuple[np.ndarray, ...]
    heads: tuple[tuple[Head, ...], ...]
    prompts: int
    provenance: Mapping[str, Any] = field(default_factory=dict)


def head_grams(
    model: nn.Module | HeadModel,
    batches: Iterable[Batch],
    *,
    scope: str = "per_block",
    include_padding: bool = False,
    first_token: str = "keep",
    on_batch: Callable[[], None] | None = None,
) -> HeadGrams:
    """Add up the inner products of head vectors over prompts.

    A head's vector is its attention probabilities over all prompts, one entry per query and key
    that the query may see. Batch size, order and padding side change nothing but rounding.

    Args:
        model: the model; comes back exactly as it was. Its language-model head is not run.
        batches: batches of `input_ids`, `attention_mask`; labels are ignored.
        scope: `per_block` compares heads of the same block, `global` all heads of the model.
        include_padding: let the rows and columns of padding count, as the model computed them on
            the batch as it is: vectors as published, which depend on padding side and length.
        first_token: `keep` it; `drop` its row and its column; or `renormalize`: drop both, and
            scale each row that is left to sum to 1 (a row with nothing left is 0).
        on_batch: called after every batch, for progress.

    Shape: (heads, heads) per block, or one matrix of all heads. Every application of a block that
    is applied several times (ALBERT) is further entries; what is missing of another block is 0.
    Cost: one forward pass; a chunk of one block's maps in memory at a time, for `global` those of
    all blocks for a few samples (at least one). Memory does not grow with the number of prompts.
    Source: the head vectors of explainabloomity, which keeps the maps of all prompts in memory.

    Raises:
        UnknownNameError: the scope, or what to do with the first token, is not known.
        DataError: there are no prompts, or none is long enough for heads to differ.
        ScoreError: maps are not finite; names head, block and batch.
    """
    check_name("scope", scope, GRAM_SCOPES)
    check_name("first_token", first_token, FIRST_TOKEN)
    view = as_view(model)
    base = getattr(view.model, "base_model", view.model)
    grams = (_Global if scope == "global" else _PerBlock)(view, first_token, include_padding)
    prompts = tokens = longest = 0
    with view.at_rest(), hook_maps(view, grams.observe):
        for number, batch in enumerate(batches):
            placed = without_empty(to_device(batch, view.device))
            placed = placed if include_padding else aligned(placed)
            for part in grams.split(placed):
                with torch.no_grad():
                    grams.begin(part)
                    call(base, part)
                    grams.end()
            grams.check(number)
            lengths = valid_tokens(placed).sum(1).tolist()
            prompts, tokens = prompts + len(lengths), tokens + sum(lengths)
            longest = max(longest, *lengths, 0)
            if on_batch is not None:
                on_batch()
    _check_prompts(prompts, longest, first_token)
    facts = {"scope": scope, "include_padding": include_padding, "first_token": first_token}
    return HeadGrams(grams.matrices(), grams.cells, prompts, {**facts, "tokens": tokens})


def per_block(grams: HeadGrams, n_blocks: int) -> HeadGrams:
    """Slice inner products of all heads of a model into those within each of its `n_blocks` blocks.

    They are what `scope="per_block"` gives, to rounding, without another pass over the prompts.
    """
    (whole,), (heads,) = grams.matrices, grams.heads
    rows = [[at for at, head in enumerate(heads) if head.block == n] for n in range(n_blocks)]
    matrices = tuple(whole[np.ix_(of_block, of_block)] for of_block in rows)
    for matrix in matrices:
        matrix.setflags(write=False)
    cells = tuple(tuple(heads[at] for at in of_block) for of_block in rows)
    return HeadGrams(matrices, cells, grams.prompts, {**grams.provenance, "scope": "per_block"})


def _check_prompts(prompts: int, longest: int, first_token: str) -> None:
    if not prompts:
        raise DataError("there are no prompts; give at least one of 2 tokens or more")
    least = 3 if first_token == "renormalize" else 2
    if longest < least:
        raise DataError(
            f"the longest prompt has {longest} token{'s' * (longest != 1)}, so that every head's"
            f" map is the same (first_token={first_token!r}); give prompts of {least} or more"
        )


class _PerBlock:
    """One Gram matrix per block: a chunk of maps is used and forgotten."""

    def __init__(self, view: HeadModel, first_token: str, include_padding: bool):
        self.view = view
        self.first_token = first_token
        self.include_padding = include_padding
        held = [[Head(n, i) for i in block.original.heads] for n, block in enumerate(view.blocks)]
        self.cells = tuple(tuple(heads) for heads in self.grouped(held))
        device = view.device
        self.home = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
        self.totals = [
            torch.zeros(len(c), len(c), dtype=torch.float64, device=self.home) for c in self.cells
        ]
        self.counted = torch.zeros(0, 0, dtype=torch.bool)  # (samples, tokens)

    def grouped(self, held: list[list[Head]]) -> list[list[Head]]:
        return held

    def split(self, batch: Batch) -> Iterator[Batch]:
        if len(valid_tokens(batch)):
            yield batch

    def begin(self, batch: Batch) -> None:
        valid = valid_tokens(batch)
        self.counted = torch.ones_like(valid) if self.include_padding else valid
        if self.first_token != "keep":
            rows = torch.arange(len(valid), device=valid.device)
            self.counted = self.counted.clone()
            self.counted[rows, valid.int().argmax(1)] = False

    def observe(self, block: int, rows: slice, maps: Tensor, visible: Tensor | None) -> None:
        entries = _entries(self.counted[rows].to(maps.device), visible)
        if self.first_token == "renormalize":
            maps = _renormalized(maps, entries)
        self.take(block, rows, maps, entries)

    def take(self, block: int, rows: slice, maps: Tensor, entries: Tensor) -> None:
        for part in _vectors(maps, entries):
            wide = part.to(self.home).double()
            self.totals[block] += (wide @ wide.mT).sum(0)

    def end(self) -> None:
        """Do what is left to do once the last block was seen."""

    def check(self, number: int) -> None:
        for heads, total in zip(self.cells, self.totals, strict=True):
            finite = torch.isfinite(total.diagonal())
            if not finite.all():
                head = heads[int((~finite).int().argmax())]
                name = self.view.blocks[head.block].name
                raise not_finite(
                    f"the attention maps of head {head}, block {name} are not finite in batch"
                    f" {number}"
                )

    def matrices(self) -> tuple[np.ndarray, ...]:
        found = tuple(((total + total.T) / 2).cpu().numpy() for total in self.totals)
        for matrix in found:
            matrix.setflags(write=False)
        return found


class _Global(_PerBlock):
    """One Gram matrix of all heads: the maps of a few samples wait for the last block."""

    def grouped(self, held: list[list[Head]]) -> list[list[Head]]:
        return [[head for heads in held for head in heads]]

    def split(self, batch: Batch) -> Iterator[Batch]:
        samples, tokens = valid_tokens(batch).shape
        layers = getattr(getattr(self.view.model, "config", None), "num_hidden_layers", 0)
        widest = max((block.n_heads for block in self.view.blocks), default=0)
        applied = max(len(self.view.blocks), int(layers)) * widest
        size = max(1, _STORED // max(1, applied * tokens**2))
        for start in range(0, samples, size):
            rows = slice(start, start + size)
            yield {k: v[rows] if v.shape[:1] == (samples,) else v for k, v in batch.items()}

    def begin(self, batch: Batch) -> None:
        super().begin(batch)
        # per sample and block, a tensor (heads, entries) for each time the block was applied
        self.waiting: list[list[list[Tensor]]] = [
            [[] for _ in self.view.blocks] for _ in self.counted
        ]

    def take(self, block: int, rows: slice, maps: Tensor, entries: Tensor) -> None:
        for at, row in enumerate(range(rows.start, rows.stop)):
            parts = list(_vectors(maps[at : at + 1], entries[at : at + 1]))
            self.waiting[row][block].append(torch.cat(parts, 2)[0].to(self.home))

    def end(self) -> None:
        for blocks in self.waiting:
            for application in range(max(map(len, blocks), default=0)):
                self._add([b[application] if application < len(b) else None for b in blocks])
        self.waiting = []

    def _add(self, blocks: list[Tensor | None]) -> None:
        """Add one sample; None is a block that was not applied once more."""
        seen = next(b for b in blocks if b is not None)
        pairs = zip(blocks, self.view.blocks, strict=True)
        maps = [seen.new_zeros(b.n_heads, seen.shape[1]) if m is None else m for m, b in pairs]
        total = self.totals[0]
        step = max(1, _WIDE // max(1, len(total)))
        for parts in zip(*(m.split(step, 1) for m in maps), strict=True):
            wide = torch.cat(parts).double()
            total.addmm_(wide, wide.T)


def _entries(counted: Tensor, visible: Tensor | None) -> Tensor:
    """Say which entries of a map make the head's vector; shape (rows, query, key), bool."""
    entries = counted[:, :, None] & counted[:, None]
    if visible is None:
        return entries
    # padding queries of a causal model may see nothing, and then attend to everything alike
    causal = ~visible[:, 0].triu(1).flatten(1).any(1)  # (rows or 1,)
    lower = torch.ones_like(entries[0]).tril()
    return entries & (lower | ~causal[:, None, None])


def _renormalized(maps: Tensor, entries: Tensor) -> Tensor:
    rest = maps.masked_fill(~entries[:, None], 0)
    total = rest.sum(-1, keepdim=True)
    return rest / total.masked_fill(total == 0, 1)


def _vectors(maps: Tensor, entries: Tensor) -> Iterator[Tensor]:
    """Yield the vectors of all heads in parts of bounded size; (rows, heads, entries)."""
    flat, chosen = maps.flatten(2), entries.flatten(1)
    columns = chosen.any(0).nonzero()[:, 0]
    alike = bool(chosen[:, columns].all())
    for part in columns.split(max(1, _WIDE // max(1, flat[..., 0].numel()))):
        vectors = flat.index_select(2, part)
        yield vectors if alike else vectors.masked_fill(~chosen[:, None, part], 0)
