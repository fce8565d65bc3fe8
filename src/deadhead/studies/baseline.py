"""The random baseline: many draws, and the interval that a criterion has to leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from deadhead.display import Brief
from deadhead.models.heads import HeadModel
from deadhead.pruning.prune import evaluate
from deadhead.scoring import score
from deadhead.strategies import STRATEGIES, Rules, StrategyContext, reachable
from deadhead.surgery.plans import as_view
from deadhead.tasks import as_tasks
from deadhead.types import HeadMask


@dataclass(frozen=True, repr=False)
class RandomBaseline(Brief):
    """Metric of random masks.

    Shape: `sparsity`, fractions of heads dropped, is (points,); `values` are (draws, points). Draw
    `i` has `seed + i`.
    """

    sparsity: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    seed: int = 0

    @property
    def n_draws(self) -> int:
        """Number of draws."""
        return len(self.values)

    @property
    def mean(self) -> np.ndarray:
        """Mean over draws; shape (points,)."""
        return np.mean(self.values, axis=0)

    @property
    def low(self) -> np.ndarray:
        """2.5% quantile over draws; shape (points,)."""
        return np.quantile(self.values, 0.025, axis=0)

    @property
    def high(self) -> np.ndarray:
        """97.5% quantile over draws; shape (points,)."""
        return np.quantile(self.values, 0.975, axis=0)

    def at(self, *, sparsity: float) -> tuple[float, float, float]:
        """Return (mean, low, high) at a sparsity; NaN outside the grid.

        Between the points of the grid each draw is interpolated, and then summarized.
        """
        near = np.flatnonzero(np.isclose(self.sparsity, sparsity, rtol=0, atol=1e-9))
        values = np.array(self.values)
        if near.size:
            drawn = values[:, near[0]]
        else:
            outside = {"left": np.nan, "right": np.nan}
            drawn = np.array([np.interp(sparsity, self.sparsity, v, **outside) for v in values])
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(drawn.mean()), float(low), float(high)

    def auc(self) -> np.ndarray:
        """Return each draw's normalized area under the curve; shape (draws,)."""
        x = np.array(self.sparsity)
        return np.trapezoid(np.array(self.values), x, axis=1) / (x[-1] - x[0])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        values = [list(row) for row in self.values]
        return {"sparsity": list(self.sparsity), "values": values, "seed": self.seed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RandomBaseline:
        """Read what `to_json` returned."""
        values = tuple(map(tuple, np.array(data["values"], dtype=float).tolist()))  # null: NaN
        return cls(tuple(data["sparsity"]), values, data["seed"])


def random_baseline(
    model: nn.Module | HeadModel,
    data: Any,
    *,
    tokenizer: Any = None,
    rules: Rules | None = None,
    draws: int = 20,
    fractions: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
    dropped: int | None = None,
    seed: int = 0,
    done: Mapping[tuple[int, int], float] | None = None,
    on_point: Callable[[int, int, float], None] = lambda draw, dropped, value: None,
) -> RandomBaseline:
    """Evaluate random orders of removal at some fractions, the dense model included.

    Args:
        model: the model.
        data: what judges, as of `evaluate`; or a function that returns the metric of a mask.
        tokenizer: the model's, where `data` are texts.
        rules: what may be dropped; `inverse` makes no difference.
        draws: number of random orders; draw `i` uses seed + i.
        fractions: of all heads, each in (0, 1].
        dropped: one more point, as a number of heads: that of the plan to compare with.
        seed: of the first draw.
        done: values of an interrupted baseline, by (draw, heads dropped).
        on_point: called with every new value.

    Cost: `draws * points` evaluations, plus one for the dense model.
    """
    done, rules, view = dict(done or {}), rules or Rules(), as_view(model)
    origin = view.mask
    own: Any = data if callable(data) and not hasattr(data, "evaluate") else None
    tasks = None if own is not None else as_tasks(data, view.model, tokenizer, seed=seed)

    def judge(mask: HeadMask) -> float:
        return evaluate(view, tasks, mask).value if own is None else own(mask)

    found = {reachable(view, origin, rules, f) for f in fractions}
    totals = sorted(t for t in found | {dropped or 0} if t > len(origin.dropped))

    def value(draw: int, mask: HeadMask) -> float:
        whole = mask in (origin, nothing)  # the same for every draw
        key = (-1 if whole else draw, len(mask.dropped))
        if key not in done:
            done[key] = judge(mask)
            on_point(*key, done[key])
        return done[key]

    nothing = origin.drop(*origin.heads)
    dense = value(-1, origin)
    rows, sparsity = [], [origin.sparsity, *(t / origin.n_heads for t in totals)]
    for draw in range(draws):
        masks = random_masks(view, totals, rules, seed + draw)
        rows.append((dense, *(value(draw, m) for m in masks)))
    return RandomBaseline(tuple(sparsity), tuple(rows), seed)


def random_masks(view: HeadModel, totals: Sequence[int], rules: Rules, seed: int) -> list[HeadMask]:
    """Draw one order of removal and return its masks at some totals of dropped heads, ascending."""
    origin, one_shot = view.mask, STRATEGIES["one_shot"]
    scores = score(view, None, "random", seed=seed)
    masks, mask = [], origin
    for total in totals:
        context = StrategyContext(view, lambda _: scores, rules, origin, mask, total, total)
        for move in one_shot(context):
            mask = move.mask
        masks.append(mask)
    return masks
