"""reconstruction: what no other head of the block can make up for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deadhead.criteria.base import register_criterion
from deadhead.errors import BudgetError, ScoreError, check_name
from deadhead.models.heads import HeadModel
from deadhead.moments import BlockMoments, Elimination, Moments
from deadhead.types import Head, HeadMask

WEIGHTS = ("gradient", "none")
SMALLEST_RIDGE = 1e-9


@register_criterion("reconstruction", needs=("moments", "output_gradients"), loss="kl")
class Reconstruction:
    """Score heads by the error that is left when the block's W_O is refitted without them.

    `trace(M W[h] inv(inv(C)[h,h]) W[h]^T)` with `C` the covariance of what enters the output
    projection, plus a ridge (a fraction of the mean variance) towards the weights as they are, and
    `W` refitted on the heads that are left. `M` is the second moment of the loss gradient at the
    block's output: errors are weighted by the squared gradient of the loss, so that blocks can be
    compared. With `weight=none` it is the plain squared error of the block's output. Unlike other
    criteria it sees redundancy: each of several redundant heads costs little until only one of them
    is left. It scores every mask from one pass over the dense model. The heads of a block whose
    output is the same for every token score 0, because a bias can replace them.

    Shape: one score per (block, head).
    Unit: squared loss per token (weight `none`: squared hidden state); higher = more important.
    Cost: one forward pass (one backward pass too with `weight=gradient`), then one inverse per
    block and `width^2 * head_dim` per dropped head.
    Source: optimal brain surgeon on heads (ZipLM, Kurtic et al. 2023, arXiv 2302.04089), with the
    Kronecker-factored Fisher of K-FAC (Martens & Grosse 2015, arXiv 1503.05671) as the metric.

    Raises:
        UnknownNameError: another weight.
        BudgetError: a ridge that is too small, or infinite.
        ScoreError: (of all methods) every block's output is the same for every token, or the
            covariance of one cannot be inverted.
    """

    def __init__(self, view: HeadModel, weight: str = "gradient", ridge: float = 0.01):
        check_name("weight", weight, WEIGHTS)
        if not SMALLEST_RIDGE <= ridge < math.inf:
            raise BudgetError(
                f"ridge is {ridge}; give a fraction of the variance, as .01; below"
                f" {SMALLEST_RIDGE} it would not mend a singular covariance"
            )
        if weight == "none":
            self.needs, self.loss = frozenset({"moments"}), None
        self.view = view
        self.weighted = weight == "gradient"
        self.ridge = ridge
        self.moments: Moments | None = None
        self.mask = view.mask  # what was kept when the data were seen
        self.weights: Mapping[int, Tensor] = {}  # where they were not the model's own then
        self._states: dict[int, Elimination] = {}
        self._wholes: dict[int, Elimination] = {}
        self._errors: dict[tuple[int, tuple[int, ...]], float] = {}
        self._group_errors: dict[tuple[int, tuple[int, ...], tuple[int, ...]], float] = {}

    def rescore_with(self, mask: HeadMask, weights: Mapping[int, Tensor]) -> None:
        """Use a pass over a masked model whose output projections differ."""
        self.mask, self.weights = mask, weights

    @property
    def notes(self) -> list[str]:
        """What the user should know about the data, a line each."""
        if not self._constant:
            return []
        named = ", ".join(map(str, sorted(self._constant)))
        return [
            f"the heads of block{'s' * (len(self._constant) > 1)} {named} give the same output for"
            " every calibration token and score 0: a repair (bias, least_squares) replaces them;"
            " give more or longer texts if their output varies on yours"
        ]

    @property
    def facts(self) -> dict[str, Any]:
        """What joins the provenance."""
        return {"notes": self.notes} if self.notes else {}

    def scores(self) -> list[np.ndarray]:
        """Return the scores of the dense model's heads."""
        return self.scores_of(self.view.mask)

    def scores_of(self, mask: HeadMask) -> list[np.ndarray]:
        """Return the scores of the heads that a mask leaves; NaN for the others."""
        rows = []
        for number, block in enumerate(self.view.blocks):
            row = np.full(block.n_heads, np.nan)
            kept = self._kept(mask, number)
            if kept and number not in self._idle:
                with self._naming(number):
                    errors = self._state(number, kept).errors()
                row[list(errors)] = list(errors.values())
                if not np.isfinite(row[kept]).all():
                    raise ScoreError(
                        f"the scores of block {number} ({block.name}) are not finite; give a"
                        " larger ridge (reconstruction:ridge=.1), or more calibration texts"
                    )
            rows.append(row)
        return rows

    def gains_of(self, mask: HeadMask) -> list[np.ndarray]:
        """Return what taking back each head that a mask drops would save; NaN for the others."""
        rows = []
        for number, block in enumerate(self.view.blocks):
            row = np.full(block.n_heads, np.nan)
            if dropped := self._dropped(mask, number):
                with self._naming(number):
                    gains = self._whole(number).gains(dropped)
                row[list(gains)] = list(gains.values())
            rows.append(row)
        return rows

    def group_errors_of(self, mask: HeadMask, units: Sequence[Sequence[Head]]) -> list[float]:
        """Return the error of dropping each of some groups of heads of one block from a mask."""
        errors = []
        for unit in units:
            number = unit[0].block
            block = self.view.blocks[number]
            kept = self._kept(mask, number)
            key = number, tuple(kept), tuple(block.position(h.index) for h in unit)
            if key not in self._group_errors:  # a move changes one block
                with self._naming(number):
                    self._group_errors[key] = self._state(number, kept).error(key[2])
            errors.append(self._group_errors[key])
        return errors

    def errors_of(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the errors of everything that masks drop, each block refitted."""
        numbers = range(len(self.view.blocks))
        return [sum(self._error(n, self._dropped(mask, n)) for n in numbers) for mask in masks]

    def _error(self, number: int, dropped: tuple[int, ...]) -> float:
        if dropped and (number, dropped) not in self._errors:  # one mask to the next: few blocks
            with self._naming(number):
                self._errors[number, dropped] = self._whole(number).error(dropped)
        return self._errors[number, dropped] if dropped else 0.0

    def _dropped(self, mask: HeadMask, number: int) -> tuple[int, ...]:
        kept = self._kept(mask, number)
        return tuple(p for p in range(self.view.blocks[number].n_heads) if p not in kept)

    def _kept(self, mask: HeadMask, number: int) -> list[int]:
        """Return the positions of a block's heads that a mask keeps."""
        heads = self.view.blocks[number].original.heads
        return [p for p, i in enumerate(heads) if mask.kept[number][i]]

    def _whole(self, number: int) -> Elimination:
        if number not in self._wholes:
            self._wholes[number] = self._begin(number)
        return self._wholes[number]

    def _state(self, number: int, kept: list[int]) -> Elimination:
        """Return the block with `kept` left: the state of last time, unless a head came back."""
        state = self._states.get(number)
        if state is None or not set(kept) <= set(state.left):
            state = self._states[number] = self._begin(number)
        gone = [h for h in state.left if h not in kept]
        if gone:
            state.drop(gone)
        return state

    def _begin(self, number: int) -> Elimination:
        block, moments = self.view.blocks[number], self._block_moments[number]
        if moments is None:
            raise ScoreError(f"reconstruction saw nothing of block {number}; give calibration data")
        weight = self.weights.get(number, self.view.output_weight(number)).cpu().double()
        covariance = moments.covariance
        one = torch.eye(len(covariance), dtype=covariance.dtype)
        if number in self._constant:  # whatever goes, a bias makes up for it
            return Elimination(one, torch.zeros_like(weight), block.head_dim)
        variance = covariance.diagonal()[self._features(number)].mean()
        ridged = covariance + self.ridge * variance * one
        metric = None
        if self.weighted and self.moments is not None:
            metric = self.moments.gradient[number]
        return Elimination(ridged, weight, block.head_dim, metric)

    @property
    def _block_moments(self) -> Sequence[BlockMoments | None]:
        if self.moments is None:
            raise ScoreError("reconstruction has seen no data; score with calibration batches")
        return self.moments.gradient_weighted if self.weighted else self.moments.blocks

    @cached_property
    def _idle(self) -> set[int]:
        """Blocks of stacks that no batch ran."""
        stacks = [block.record.stack for block in self.view.blocks]
        ran = {s for s, m in zip(stacks, self._block_moments, strict=True) if m is not None}
        return {n for n, stack in enumerate(stacks) if ran and stack not in ran}

    @cached_property
    def _constant(self) -> set[int]:
        """Blocks whose output is the same for every token."""
        features = {n: self._features(n) for n in range(len(self.view.blocks))}
        measured = {
            n: moments.of(features[n])
            for n, moments in enumerate(self._block_moments)
            if moments is not None and len(features[n])
        }
        constant = {n for n, moments in measured.items() if moments.constant}
        if constant and len(constant) == len(measured):
            raise ScoreError(
                "the heads of every block give the same output for every token: there is nothing to"
                " reconstruct; give more and longer samples, or choose another criterion"
            )
        return constant

    def _features(self, number: int) -> Tensor:
        """Return the features of the heads that were kept when the data were seen."""
        block = self.view.blocks[number]
        starts = torch.tensor(self._kept(self.mask, number), dtype=torch.long) * block.head_dim
        return (starts[:, None] + torch.arange(block.head_dim)).reshape(-1)

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        """Name the block whose covariance is singular."""
        try:
            yield
        except ScoreError:
            raise
        except ArithmeticError as error:
            raise ScoreError(
                f"reconstruction of block {number} ({self.view.blocks[number].name}): {error}; give"
                " a larger ridge (reconstruction:ridge=.1), or more calibration texts"
            ) from error
