"""Strategies: from scores to masks. Each is a lazy stream of moves; rules say what may go."""

from deadhead.display import Names, listed_when_called
from deadhead.strategies.base import (
    STRATEGIES,
    Move,
    ScoreFn,
    Strategy,
    StrategyContext,
    register_strategy,
)
from deadhead.strategies.rules import Rules, droppable, reachable, removable, shortfall, units

listed_when_called(__name__, lambda: Names(STRATEGIES.described()))
