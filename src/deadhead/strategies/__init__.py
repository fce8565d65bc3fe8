"""Strategies: from scores to masks. Each is a lazy stream of moves; rules say what may go."""

from deadhead.display import Names, listed_when_called
from deadhead.strategies.base import (
    STRATEGIES,
    Move,
    Rules,
    ScoreFn,
    Strategy,
    StrategyContext,
    droppable,
    reachable,
    register_strategy,
    removable,
    shortfall,
    units,
)

listed_when_called(__name__, lambda: Names(STRATEGIES.described()))
