"""What a strategy is: a lazy stream of moves, and the registry that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol, runtime_checkable

from deadhead.errors import unknown_name
from deadhead.models.heads import HeadModel
from deadhead.similarity import GramFn
from deadhead.strategies.units import JointFn, Rules, Unit, sums_from
from deadhead.types import Head, HeadMask, HeadScores

ScoreFn = Callable[[HeadMask], HeadScores]


@runtime_checkable
class ScoresWholeMasks(Protocol):
    """A `ScoreFn` that also knows the error of a whole mask, if its criterion does."""

    def __call__(self, mask: HeadMask) -> HeadScores:
        """Score the heads that a mask leaves."""
        ...

    @property
    def at_once(self) -> int:
        """How many masks are best asked for together."""
        ...

    def errors(self, masks: Sequence[HeadMask]) -> list[float] | None:
        """Return the errors of masks; None if the criterion knows none."""
        ...

    def gains(self, mask: HeadMask) -> HeadScores | None:
        """Return what taking back each dropped head would save; None likewise."""
        ...


@runtime_checkable
class ScoresUnits(Protocol):
    """A `ScoreFn` that also knows what heads cost together, if its criterion does."""

    def __call__(self, mask: HeadMask) -> HeadScores:
        """Score the heads that a mask leaves."""
        ...

    def joint(self, mask: HeadMask, units: Sequence[Unit]) -> list[float] | None:
        """Return what dropping each unit costs from a mask; None if the criterion cannot tell."""
        ...


def joint_from(score: ScoreFn, mask: HeadMask) -> JointFn | None:
    """Return what scores heads that go together from a mask; None if nothing does."""
    if not isinstance(score, ScoresUnits):
        return None
    return lambda units: score.joint(mask, units)


@dataclass(frozen=True)
class Move:
    """What a strategy does next: the heads it drops, their scores then, and the mask after it.

    The scores are of each head alone, also where heads go together and were chosen by what they
    cost together.

    `copies` names for a dropped head the one that stands for it, where the strategy knows.
    """

    mask: HeadMask
    dropped: tuple[Head, ...]
    scores: tuple[float, ...]
    copies: Mapping[Head, Head] = field(default_factory=dict)


class Strategy(Protocol):
    """Yield moves from `start` for as long as something may be dropped.

    `score(mask)` scores what a mask leaves, `grams("per_block" or "global")` runs the prompts.
    `origin` is the mask the run began with; it differs from `start` when a run is resumed. A move
    drops about `per_step` heads, and all moves together never leave more than `limit` dropped.
    """

    def __call__(
        self,
        view: HeadModel,
        score: ScoreFn,
        grams: GramFn,
        *,
        origin: HeadMask,
        start: HeadMask,
        per_step: int,
        limit: int,
        rules: Rules,
    ) -> Iterator[Move]:
        """Yield the moves."""
        ...


_REGISTRY: dict[str, Strategy] = {}


def register_strategy(name: str) -> Callable[[Strategy], Strategy]:
    """Register a function as a strategy."""

    def register(strategy: Strategy) -> Strategy:
        _REGISTRY[name] = strategy
        return strategy

    return register


def strategy_named(name: str) -> Strategy:
    """Look up a strategy.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in _REGISTRY:
        raise unknown_name("strategy", name, _REGISTRY)
    return _REGISTRY[name]


def strategy_names() -> list[str]:
    """List the strategies that are known."""
    return sorted(_REGISTRY)


def next_move(
    mask: HeadMask, units: list[Unit], scores: HeadScores, *, per_step: int, limit: int
) -> Move | None:
    """Make the move that drops units from the front of a list, or None if none fits.

    Takes at least one unit, then more while they fit into `per_step`. A unit is passed over if the
    total could not come as near to `limit` with it as without: where units differ in size, a small
    one may not take the room that only large ones can fill.
    """
    sums = sums_from(units)
    room = limit - len(mask.dropped)
    room = max((n for n in range(room + 1) if sums[0] >> n & 1), default=0)
    dropped: tuple[Head, ...] = ()
    for unit, left in zip(units, sums[1:], strict=True):
        size = len(dropped) + len(unit)
        if size > room or not left >> (room - size) & 1:
            continue
        if dropped and size > per_step:
            break
        dropped += unit
    return (
        Move(mask.drop(*dropped), dropped, tuple(scores[h] for h in dropped)) if dropped else None
    )


def no_grams(scope: str) -> NoReturn:
    """Stand for the prompts where a strategy looks at none."""
    raise AssertionError("random orders look at no attention maps")
