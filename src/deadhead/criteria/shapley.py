"""shapley: what a head adds to a random set of other heads, on average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deadhead.criteria.base import MaskLosses, by_head, register_criterion
from deadhead.errors import BudgetError
from deadhead.models.heads import HeadModel
from deadhead.types import Head, HeadMask

HEADS_PER_CHECK = 16  # heads that are added between two checks of the tolerance
FEWEST = 3  # rounds before a standard error is used


@register_criterion("shapley", needs=("trials",), loss="task", in_all=False)
class Shapley:
    """Score heads by their Shapley value in the game `v(S) = -mean loss with the heads S alone`.

    In the order of a random permutation, heads are added to the model without heads; the score of
    each is by how much the loss falls then, on average. A permutation ends early once the loss is
    within `tolerance` (of `abs(v(all) - v(none))`; 0: never) of the whole model's: the other heads
    count 0. Sampling ends early once the standard error of every head is below `precision` of the
    range of the estimates (0: never). Without truncation the scores add up to `v(all) - v(none)`.
    At most `permutations` are drawn with `seed`; `antithetic` follows each by its reverse.

    Shape: one score per (block, head).
    Unit: of the loss (nats); higher = more important; below 0: does harm on average.
    Cost: at most one forward pass per head and permutation. Padding is not computed.
    Source: Ghorbani, Zou 2019 (arXiv 1904.02868), algorithm 1 (TMC-Shapley), of heads instead of
    data; we stop by the standard error. Antithetic sampling: Mitchell et al. 2022 (arXiv
    2104.12199).
    """

    def __init__(
        self,
        view: HeadModel,
        permutations: int = 20,
        precision: float = 0.05,
        tolerance: float = 0.01,
        antithetic: bool = True,
        seed: int = 0,
    ):
        if permutations < 1:
            raise BudgetError(f"permutations is {permutations}; give 1 or more")
        for name, value in (("precision", precision), ("tolerance", tolerance)):
            if not value >= 0:
                raise BudgetError(f"{name} is {value}; give a fraction of 0 or more, as .05")
        self.view, self.seed = view, seed
        self.per_round = 2 if antithetic else 1
        self.rounds = -(-permutations // self.per_round)
        self.precision, self.tolerance = precision, tolerance
        self.facts: dict[str, Any] = {}
        self._scores: list[np.ndarray] = []

    def observe_trials(self, trials: MaskLosses) -> None:
        """Draw permutations until the estimates are good enough."""
        heads = trials.mask.heads
        self._scores = by_head(self.view, {})
        if not heads:
            return
        generator = np.random.default_rng(self.seed)
        share = 1 / (self.rounds + 1)  # of the progress, per round; the ends count as one
        ends = -trials.losses([trials.mask.drop(*heads), trials.mask], share=share)
        game = _Game(trials, heads, (float(ends[0]), float(ends[1])), self.tolerance)
        rounds: list[np.ndarray] = []
        error = None
        for _ in range(self.rounds):
            order = generator.permutation(len(heads))
            rounds.append(game.credits([order, order[::-1]][: self.per_round], share).mean(0))
            if len(rounds) > 1:
                error = float((np.std(rounds, axis=0, ddof=1) / np.sqrt(len(rounds))).max())
            enough = self.precision * np.ptp(np.mean(rounds, axis=0))
            if len(rounds) >= FEWEST and error is not None and error < enough:
                break
        permutations = len(rounds) * self.per_round
        self.facts = {"permutations": permutations, "largest_standard_error": error}
        self._scores = by_head(self.view, dict(zip(heads, np.mean(rounds, axis=0), strict=True)))

    def scores(self) -> list[np.ndarray]:
        """Return the estimates."""
        return self._scores


class _Game:
    """The value of sets of heads, `v(S) = -mean loss`; `ends`: of none and of all heads."""

    def __init__(
        self, trials: MaskLosses, heads: Sequence[Head], ends: tuple[float, float], tolerance: float
    ):
        self.trials, self.heads = trials, heads
        self.none, self.all = ends
        self.near = tolerance * abs(self.all - self.none)

    def credits(self, orders: Sequence[np.ndarray], share: float) -> np.ndarray:
        """Return what each head adds in each order; shape (orders, heads)."""
        credits = np.zeros((len(orders), len(self.heads)))
        before = [self.none] * len(orders)
        going = list(range(len(orders)))
        for start in range(0, len(self.heads), HEADS_PER_CHECK):
            stop = min(start + HEADS_PER_CHECK, len(self.heads))
            values = self._values([orders[o] for o in going], range(start + 1, stop + 1), share)
            for o, row in zip(list(going), values, strict=True):
                for head, value in zip(orders[o][start:stop], row, strict=True):
                    credits[o, head] = value - before[o]
                    before[o] = float(value)
                    if abs(before[o] - self.all) < self.near:
                        going.remove(o)
                        break
            if not going:
                break
        return credits

    def _values(
        self, orders: Sequence[np.ndarray], sizes: range, share: float
    ) -> Sequence[Sequence[float]]:
        """Return the values of the first so many heads of each order."""
        whole = sizes[-1] == len(self.heads)
        masks = [self._first(order, n) for order in orders for n in sizes[: -1 if whole else None]]
        part = share * len(sizes) / len(self.heads)
        losses = self.trials.losses(masks, share=part) if masks else np.zeros(0)
        values = -losses.reshape(len(orders), len(masks) // len(orders))
        return [[*row, self.all] if whole else list(row) for row in values]

    def _first(self, order: np.ndarray, size: int) -> HeadMask:
        return self.trials.mask.drop(*(self.heads[i] for i in order[size:]))
