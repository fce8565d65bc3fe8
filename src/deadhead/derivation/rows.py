"""Which rows of which parameters belong to which heads of a site, by gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deadhead.derivation.trace import LinearCall, Site, gradient_of
from deadhead.models.architectures import HeadCounts, PerHead
from deadhead.models.architectures.record import LAYOUTS, PARTS
from deadhead.models.blocks import is_conv1d

SHARED = -1
MIXED = -2
PARTS_TRIED = (1, 2, 3, 4)


@dataclass(frozen=True)
class Owned:
    """A parameter in which heads have rows of their own.

    Attributes:
        path: dotted path in the model.
        dim: the dimension of the rows.
        owners: per row: a head; `n_heads + group`; SHARED (all heads); MIXED (anything else).
    """

    path: str
    dim: int
    owners: tuple[int, ...]


def owned(model: nn.Module, site: Site, block: str) -> list[Owned]:
    """List the parameters below `block` in which heads of a site have rows of their own.

    A row belongs to the heads whose slices have a gradient in it. A bias follows its weight, as the
    gradient of a key bias is zero but for rounding.

    Cost: one backward pass per head.
    """
    prefix = f"{block}." if block else ""
    named = {n: p for n, p in model.named_parameters() if n.startswith(prefix) and p.requires_grad}
    output = {f"{site.output}.weight", f"{site.output}.bias"}
    named = {n: p for n, p in named.items() if n not in output}
    touched = _touched(site, named)
    groups = _group_size(site, touched)
    found: list[Owned] = []
    for name, supports in touched.items():
        if name.endswith("bias") and f"{name[:-4]}weight" in named:
            continue
        for dim, support in enumerate(supports):
            owners = _owners(support, groups)
            if any(owner >= 0 for owner in owners):
                found.append(Owned(name, dim, owners))
    biases = [
        Owned(f"{each.path[:-6]}bias", 0, each.owners)
        for each in found
        if each.path.endswith(".weight")
        and each.dim == _output_dim(model, each.path)
        and f"{each.path[:-6]}bias" in named
    ]
    return found + biases


def _output_dim(model: nn.Module, path: str) -> int:
    return 1 if is_conv1d(model.get_submodule(path.rpartition(".")[0])) else 0


def _touched(site: Site, named: dict[str, nn.Parameter]) -> dict[str, list[Tensor]]:
    """Return per parameter and dimension which heads touch which rows, (heads, rows) bool."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(site.z.shape, generator=generator, dtype=torch.float64).to(site.z.dtype)
    parts = (site.z * noise).unflatten(-1, (site.n_heads, site.head_dim)).movedim(-2, 0)
    parameters = list(named.values())
    if not parameters:
        return {}
    touched: dict[str, list[list[Tensor]]] = {}
    for part in parts:
        gradients = torch.autograd.grad(
            part.sum(), parameters, retain_graph=True, allow_unused=True
        )
        for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
            nonzero = torch.zeros_like(parameter) if gradient is None else gradient
            nonzero = nonzero.abs() > 1e-14 * nonzero.abs().max()
            touched.setdefault(name, []).append(_rows_in(nonzero))
    stacked = {
        name: [torch.stack(rows) for rows in zip(*heads, strict=True)]
        for name, heads in touched.items()
    }
    return {n: rows for n, rows in stacked.items() if any(bool(r.any()) for r in rows)}


def _rows_in(nonzero: Tensor) -> list[Tensor]:
    if nonzero.dim() < 2:
        return [nonzero] if nonzero.dim() else []
    return [nonzero.movedim(dim, 0).flatten(1).any(1) for dim in range(nonzero.dim())]


def _group_size(site: Site, touched: dict[str, list[Tensor]]) -> int:
    """Return how many query heads share one key/value head: the smallest shared run of heads."""
    sizes: set[int] = set()
    for supports in touched.values():
        for support in supports:
            for column in support.T.unique(dim=0):
                heads = column.nonzero().flatten().tolist()
                size = len(heads)
                aligned = size and heads == list(range(heads[0], heads[0] + size))
                if aligned and 1 < size < site.n_heads and heads[0] % size == 0:
                    sizes.add(size)
    return min(sizes, default=1)


def _owners(support: Tensor, group: int) -> tuple[int, ...]:
    n_heads = len(support)
    found = []
    for column in support.T:
        heads = column.nonzero().flatten().tolist()
        if len(heads) == 1:
            found.append(heads[0])
        elif len(heads) == n_heads:
            found.append(SHARED)
        elif len(heads) == group and heads == list(range(heads[0], heads[0] + group)):
            found.append(n_heads + heads[0] // group)
        else:
            found.append(MIXED)
    return tuple(found)


def group_size(found: list[Owned], n_heads: int) -> int:
    """Return how many query heads share a key/value head, by the owners that were found."""
    groups = {owner for each in found for owner in each.owners if owner >= n_heads}
    return n_heads // len(groups) if groups else 1


def per_head_rows(each: Owned, n_heads: int, n_kv_heads: int, relative: str) -> PerHead | None:
    """Describe owners as runs of heads or key/value heads, part by part; None if they are not."""
    size = len(each.owners)
    for unit, count, first in (("heads", n_heads, 0), ("kv_heads", n_kv_heads, n_heads)):
        for parts in PARTS_TRIED:
            if size % (count * parts):
                continue
            inner = size // parts // count
            wanted = [first + row % (size // parts) // inner for row in range(size)]
            if tuple(wanted) == each.owners:
                return PerHead(relative, unit, each.dim, parts)  # type: ignore[arg-type]
    return None


def layout_of(owners: tuple[int, ...], shape: HeadCounts) -> str | None:
    """Name the layout of a fused projection whose rows have these owners; None if unknown."""
    shared_kv = shape.n_kv_heads == 1
    for name, layout in LAYOUTS.items():
        if name == "separate":
            continue
        wanted = [MIXED] * len(owners)
        for part in PARTS:
            for index in range(shape.count(part)):
                owner = index if part == "query" else shape.n_heads + index
                if shape.n_kv_heads == shape.n_heads:
                    owner = index
                owner = SHARED if shared_kv and part != "query" else owner
                first = layout(part, index, shape)
                wanted[first : first + shape.head_dim] = [owner] * shape.head_dim
        if tuple(wanted) == owners:
            return name
    return None


def roles(site: Site, candidates: dict[str, LinearCall]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Say per linear map what its rows are: `query`, `key` or `value`, or "" for none of them.

    Values do not reach the softmax. Of the others, a query matters at its own token only.
    """
    generator = torch.Generator().manual_seed(0)
    softmax = site.softmax.output
    noise = torch.randn(softmax.shape, generator=generator, dtype=torch.float64)
    value = (softmax * noise.to(softmax.dtype)).sum()
    row = site.z.reshape(-1, site.z.shape[-1])[-1]
    for path, event in candidates.items():
        reaches = None if site.softmax.fused else gradient_of(value, event.output)
        matters = gradient_of(row.sum(), event.output)
        width = event.output.shape[-1]
        if matters is None:
            yield path, ("",) * width
            continue
        tokens = (matters.reshape(-1, width) != 0).sum(0)
        before = torch.zeros(width, dtype=torch.bool)
        if reaches is not None:
            before = (reaches.reshape(-1, width) != 0).any(0)
        names = [
            ("query" if int(count) == 1 else "key") if bool(on) else "value"
            for count, on in zip(tokens, before, strict=True)
        ]
        yield path, tuple(names)
