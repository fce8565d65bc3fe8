"""What a strategy is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deadhead.display import Brief
from deadhead.models.heads import HeadModel
from deadhead.models.registry import Registry
from deadhead.strategies.rules import Rules, Unit, sums_from, units
from deadhead.types import Head, HeadMask, HeadScores

if TYPE_CHECKING:
    from deadhead.scoring import Scorer
    from deadhead.similarity import GramFn


OWN = {"clusters": "clusters"} | dict.fromkeys(
    ("greedy", "one_shot", "search", "second_look"), "greedy"
)
ScoreFn = Callable[[HeadMask], HeadScores]


@dataclass(frozen=True, repr=False)
class Move(Brief):
    """What a strategy does next.

    Attributes:
        mask: the mask after the move.
        dropped: the heads that it drops.
        scores: their scores then, of each head alone, even where groups of heads were chosen.
        copies: for a dropped head the one that stands for it, where the strategy knows.
    """

    mask: HeadMask
    dropped: tuple[Head, ...]
    scores: tuple[float, ...]
    copies: Mapping[Head, Head] = field(default_factory=dict)


@dataclass(frozen=True)
class StrategyContext:
    """Everything that a strategy works with.

    Attributes:
        view: the model.
        score: scores what a mask leaves.
        rules: what may be dropped.
        origin: the mask that the run began with.
        start: the mask to continue from; differs from `origin` in a resumed run.
        limit: how many heads may be dropped in all, those that `start` drops included.
        per_step: how many heads a move drops, about.
        scorer: what else the criterion can do; None: scores are all there is.
        grams: compares heads on prompts, by scope (`per_block`, `global`); None: there are none.
        history: the masks of the run so far, in order.
    """

    view: HeadModel
    score: ScoreFn
    rules: Rules
    origin: HeadMask
    start: HeadMask
    limit: int
    per_step: int = 1
    scorer: Scorer | None = None
    grams: GramFn | None = None
    history: Sequence[HeadMask] = ()

    def units(self, scores: HeadScores, mask: HeadMask, scored: HeadMask) -> list[Unit]:
        """List what can be dropped from a mask, in order; `scored` is the mask of the scores."""
        scorer = self.scorer
        group_errors = None if scorer is None else lambda some: scorer.group_errors(scored, some)
        return units(self.view, scores, mask, self.rules, group_errors)

    def move(self, mask: HeadMask, ordered: Sequence[Unit], scores: HeadScores) -> Move | None:
        """Make the move that drops units from the front of a list, or None if none fits.

        Takes at least one unit, then more while they fit into `per_step`. A unit is skipped if the
        total could not come as near to `limit` with it as without: where units differ in size, a
        small one must not take the room that only large ones can fill.
        """
        sums = sums_from(ordered)
        room = self.limit - len(mask.dropped)
        room = max((n for n in range(room + 1) if sums[0] >> n & 1), default=0)
        dropped: tuple[Head, ...] = ()
        for unit, left in zip(ordered, sums[1:], strict=True):
            size = len(dropped) + len(unit)
            if size > room or not left >> (room - size) & 1:
                continue
            if dropped and size > self.per_step:
                break
            dropped += unit
        if not dropped:
            return None
        return Move(mask.drop(*dropped), dropped, tuple(scores[h] for h in dropped))


@dataclass(frozen=True)
class Strategy:
    """A way to choose heads: yields moves from `start` for as long as something may be dropped.

    Attributes:
        moves: yields the moves. A move drops about `per_step` heads, and all moves together never
            leave more than `limit` dropped.
        nested: its masks shrink step by step, so that a run can end at any of them.
        makes_groups: it groups heads by what they attend to, by `rules.clustering`, and says which
            head each dropped one is a copy of.
        rescores: it scores what is left again after every move.
        minimizes_error: it looks for the smallest error of the whole mask, so the order of the
            scores (`inverse`) means nothing to it.
    """

    moves: Callable[[StrategyContext], Iterator[Move]]
    nested: bool = True
    makes_groups: bool = False
    rescores: bool = False
    minimizes_error: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.moves.__doc__)

    def __call__(self, context: StrategyContext) -> Iterator[Move]:
        """Yield the moves."""
        return self.moves(context)


STRATEGIES: Registry[Strategy] = Registry(
    "strategy", {name: f"deadhead.strategies.{module}" for name, module in OWN.items()}
)


def register_strategy(
    name: str,
    *,
    nested: bool = True,
    makes_groups: bool = False,
    rescores: bool = False,
    minimizes_error: bool = False,
) -> Callable[[Callable[[StrategyContext], Iterator[Move]]], Strategy]:
    """Register a function as a strategy; the arguments are the attributes of `Strategy`."""

    def register(moves: Callable[[StrategyContext], Iterator[Move]]) -> Strategy:
        strategy = Strategy(moves, nested, makes_groups, rescores, minimizes_error)
        return STRATEGIES.register(name, strategy)

    return register


def half_of(origin: HeadMask) -> int:
    """Return how many heads are dropped when the model is measured again."""
    return len(origin.dropped) + origin.n_kept // 2
