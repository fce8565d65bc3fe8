"""Moments of calibration tokens, summed batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deadhead.display import Brief
from deadhead.errors import not_finite
from deadhead.models.heads import HeadModel
from deadhead.models.observation import per_row

if TYPE_CHECKING:
    from deadhead.models.observation import Observation

HELD_OUT_EVERY = 4  # every fourth sample is held out of a fit, to choose its ridge
STRIPE, STRIPES = 128, 4  # products are made a stripe at a time; wider matrices, more columns each
ROUNDING = 1e-12  # variances below this share of the mean square are rounding errors


@dataclass(frozen=True, eq=False, repr=False)
class BlockMoments(Brief):
    """Moments of one block over calibration tokens, float64; `width` is heads now * head_dim.

    Attributes:
        second: sums of `x x^T` over the tokens of the fitting and of the held-out samples,
            (2, width, width); `x` is what enters the output projection.
        first: sums of `x`, (2, width).
        tokens: number of tokens of both; the sum of their weights if they are weighted.
    """

    second: Tensor
    first: Tensor
    tokens: tuple[float, float]

    @property
    def mean(self) -> Tensor:
        """Mean of `x`; shape (width,)."""
        return self.first.sum(0) / sum(self.tokens)

    @property
    def covariance(self) -> Tensor:
        """Covariance of `x`; shape (width, width)."""
        return self.second.sum(0) / sum(self.tokens) - torch.outer(self.mean, self.mean)

    @property
    def constant(self) -> bool:
        """Whether `x` is the same for every token, to rounding."""
        variance = self.covariance.diagonal().mean()
        return bool(variance <= ROUNDING * self.mean.square().mean())

    def fold(self, number: int) -> tuple[Tensor, Tensor]:
        """Return (mean, covariance) of the fitting (0) or the held-out (1) samples."""
        mean = self.first[number] / self.tokens[number]
        return mean, self.second[number] / self.tokens[number] - torch.outer(mean, mean)

    @property
    def about_zero(self) -> BlockMoments:
        """The same with means of zero, so that covariances are mean squares."""
        return replace(self, first=torch.zeros_like(self.first))

    def of(self, features: Tensor) -> BlockMoments:
        """Return the moments of some features alone."""
        second = self.second[:, features][:, :, features]
        return BlockMoments(second, self.first[:, features], self.tokens)

    @property
    def fitting(self) -> BlockMoments:
        """The moments of the fitting samples alone."""
        keep = torch.tensor([1.0, 0.0]).to(self.first)
        return BlockMoments(
            self.second * keep[:, None, None], self.first * keep[:, None], (self.tokens[0], 0.0)
        )

    def mixed(self, other: BlockMoments, share: float) -> BlockMoments:
        """Return the moments of both, `share` of the weight on the other's tokens.

        The weights add up to the number of tokens here.
        """
        return self * (1 - share) + other * (share * sum(self.tokens) / sum(other.tokens))

    def __add__(self, other: BlockMoments) -> BlockMoments:
        """Return the moments over the tokens of both."""
        first, second = self.first + other.first, self.second + other.second
        fitting, held_out = (a + b for a, b in zip(self.tokens, other.tokens, strict=True))
        return BlockMoments(second, first, (fitting, held_out))

    def __mul__(self, weight: float) -> BlockMoments:
        """Return the same moments with every token's weight multiplied."""
        fitting, held_out = (n * weight for n in self.tokens)
        return BlockMoments(self.second * weight, self.first * weight, (fitting, held_out))


@dataclass(frozen=True, eq=False, repr=False)
class Moments(Brief):
    """Moments of every block; None for blocks that have lost every head.

    Attributes:
        blocks: every token counts the same.
        gradient_weighted: half of a token's weight is its share of the squared loss gradient at
            the block's output, the other half is the same for all tokens. All weights add up to the
            number of tokens. The same as `blocks` if no gradients were asked for.
        gradient: mean of `g g^T`, (hidden, hidden), `g` the gradient of a sample's loss at the
            output projection's output; None if no gradients were asked for.
        samples: how many.
        own: makes the moments of every block on a second stream, of text that the model makes
            itself, when it is first called; every token counts the same. Empty: there is none.
    """

    blocks: Sequence[BlockMoments | None]
    gradient_weighted: Sequence[BlockMoments | None]
    gradient: Sequence[Tensor | None]
    samples: int
    own: Callable[[], Sequence[BlockMoments | None]] = tuple

    @property
    def fitting(self) -> Moments:
        """The moments without the held-out samples, on which a fit can then be judged."""

        def own() -> list[BlockMoments | None]:
            return [None if b is None else b.fitting for b in self.own()]

        blocks, weighted = (
            [None if b is None else b.fitting for b in of]
            for of in (self.blocks, self.gradient_weighted)
        )
        return replace(self, blocks=blocks, gradient_weighted=weighted, own=own)


class MomentSums:
    """Sum moments batch by batch; see `scoring.passes.observe_all`.

    Cost: `tokens * width^2` per block, and with gradients as much again and `tokens * hidden^2`.
    Memory: two (width, width) matrices per block, with gradients four and one (hidden, hidden), and
    one batch's head outputs.

    Args:
        view: the model.
        gradients: whether to sum moments of gradients too.
        device: where the sums are kept, such as `cpu`; None: where the block is.
        dtype: of the sums: float64, or float32, whose scores are off by about 1e-5.
    """

    def __init__(
        self,
        view: HeadModel,
        *,
        gradients: bool = False,
        device: str | None = None,
        dtype: torch.dtype = torch.float64,
    ):
        self.name = "moments"
        self.needs = frozenset({"heads", *(["output_gradients"] if gradients else [])})
        self.loss = "kl" if gradients else None
        self.view = view
        self.samples = 0
        self._device = device
        self._dtype = dtype
        self._plain: dict[tuple[int, int], _Sums] = {}
        self._weighted: dict[tuple[int, int], _Sums] = {}
        self._gradient: dict[int, Tensor] = {}
        self._batch = -1
        # head outputs and which tokens are real, until their gradients come
        self._kept: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._held_out = torch.zeros(0, dtype=torch.bool)

    def begin(self, samples: int, batch: int) -> None:
        """Begin a batch of so many samples."""
        self._batch = batch
        number = torch.arange(self.samples, self.samples + samples)
        self._held_out = number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        self.samples += samples

    def observe_heads(self, block: int, z: Tensor, valid: Tensor, batch: int) -> None:
        """Add one application of one block; `z` is (rows, tokens, heads, head_dim)."""
        if batch != self._batch:
            self.begin(len(valid), batch)
        x = z.flatten(2)
        for fold, rows in self._folds(block, valid):
            self._add(self._plain, (block, fold), self._wide(x[rows]), None)
        if not all(sums.finite() for (n, _), sums in self._plain.items() if n == block):
            raise not_finite(
                f"the head outputs of block {block} ({self.view.blocks[block].name}) are not finite"
                f" in batch {batch}"
            )
        if self.loss is not None:
            self._kept.setdefault(block, []).append((x, valid))

    def observe(self, seen: Observation) -> None:
        """Add the gradients of one batch."""
        for block, gradient in enumerate(seen.output_gradients):
            if gradient is None:
                continue
            kept = self._kept.pop(block)
            applications = gradient.split([x.shape[1] for x, _ in kept], dim=1)
            for (x, valid), g in zip(kept, applications, strict=True):
                for fold, rows in self._folds(block, valid):
                    chosen = self._wide(g[rows])
                    squared = chosen.square().sum(1)
                    if not torch.isfinite(squared).all():
                        name = f"{block} ({self.view.blocks[block].name})"
                        raise not_finite(
                            f"the loss has a gradient at block {name} that is not finite in batch"
                            f" {seen.batch}"
                        )
                    self._add(self._weighted, (block, fold), self._wide(x[rows]), squared)
                self._add_gradient(block, g[valid].detach())

    def value(self) -> Moments:
        """Return the moments."""
        numbers = range(len(self.view.blocks))
        plain = [_joined(self._plain, n) for n in numbers]
        weighted = [_joined(self._weighted, n) for n in numbers]
        gradient = [
            _whole(self._gradient[n].cpu().double()) / sum(p.tokens)
            if p is not None and n in self._gradient
            else None
            for n, p in zip(numbers, plain, strict=True)
        ]
        mixed = [_mixed(p, f) for p, f in zip(plain, weighted, strict=True)]
        return Moments(plain, mixed, gradient, self.samples)

    def _folds(self, block: int, valid: Tensor) -> list[tuple[int, Tensor]]:
        """Return which tokens are of the fitting and of the held-out samples."""
        rows = per_row(self._held_out, valid, self.view.blocks[block])
        held_out = rows.to(valid.device)[:, None]
        return [(0, valid & ~held_out), (1, valid & held_out)]

    def _add(
        self, sums: dict[tuple[int, int], _Sums], key: tuple[int, int], x: Tensor, w: Tensor | None
    ) -> None:
        if key not in sums:
            width = x.shape[1]
            zeros = (self._zeros(x, width, width), self._zeros(x, width), self._zeros(x))
            sums[key] = _Sums(*zeros)
        sums[key].add(x, w)

    def _add_gradient(self, block: int, g: Tensor) -> None:
        """Add the products of gradients; (tokens, hidden)."""
        if block not in self._gradient:
            width = g.shape[1]
            self._gradient[block] = self._zeros(self._wide(g[:0]), width, width)
        largest = self._wide(g.abs().max()) if len(g) else 0
        if largest:  # the unit, as squares of small ones underflow; no differences are taken later
            wide = g.to(torch.promote_types(g.dtype, torch.float32))
            unit = wide / largest.to(wide.dtype)
            sums = self._gradient[block]
            _add_products(sums, unit, unit, largest.to(sums).square())

    def _wide(self, x: Tensor) -> Tensor:
        return x.detach().to(torch.float32 if x.device.type == "mps" else self._dtype)

    def _zeros(self, like: Tensor, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=like.dtype, device=self._device or like.device)


@dataclass
class _Sums:
    second: Tensor  # the upper triangle; what is below is not to be read
    first: Tensor
    tokens: Tensor

    def add(self, x: Tensor, weight: Tensor | None) -> None:
        """Add tokens; shape (tokens, width), weights (tokens,)."""
        weighted = x if weight is None else x * weight[:, None]
        _add_products(self.second, weighted, x)
        self.first += weighted.sum(0).to(self.first)
        self.tokens += len(x) if weight is None else weight.sum().to(self.tokens)

    def finite(self) -> bool:
        """Whether every number seen was finite, and its square."""
        both = (self.first, self.second.diagonal())
        return all(bool(torch.isfinite(sums).all()) for sums in both)


def _joined(sums: dict[tuple[int, int], _Sums], number: int) -> BlockMoments | None:
    if (number, 0) not in sums:
        return None
    folds = [sums[number, fold] for fold in range(2)]
    second = torch.stack([_whole(f.second.cpu().double()) for f in folds])
    first = torch.stack([f.first.cpu().double() for f in folds])
    return BlockMoments(second, first, (float(folds[0].tokens), float(folds[1].tokens)))


def _add_products(sums: Tensor, x: Tensor, y: Tensor, factor: Tensor | float = 1.0) -> None:
    """Add the upper triangle of `factor * x^T y`, which is symmetric, in stripes."""
    width = x.shape[1]
    step = max(STRIPE, -(-width // STRIPES))
    for begin in range(0, width, step):
        stripe = x[:, begin : begin + step].T @ y[:, begin:]
        sums[begin : begin + step, begin:] += stripe.to(sums) * factor


def _whole(upper: Tensor) -> Tensor:
    """Return the symmetric matrix of an upper triangle."""
    return upper.triu() + upper.triu(1).T


def _mixed(plain: BlockMoments | None, weighted: BlockMoments | None) -> BlockMoments | None:
    """Return a mixture of halves; the plain moments where all gradients are zero."""
    if plain is None or weighted is None or not sum(weighted.tokens):
        return plain
    return plain * 0.5 + weighted * (0.5 * sum(plain.tokens) / sum(weighted.tokens))
