"""Strategies: from scores to masks. Each is a lazy stream of moves; rules say what may go."""

from deadhead.strategies import clusters, greedy, one_shot, search, second_look  # noqa: F401 - they register
from deadhead.strategies.base import (
    Move,
    ScoreFn,
    register_strategy,
    strategy_named,
    strategy_names,
)
from deadhead.strategies.units import SCOPES, Rules, droppable, reachable, shortfall, units

__all__ = [
    "SCOPES",
    "Move",
    "Rules",
    "ScoreFn",
    "droppable",
    "reachable",
    "register_strategy",
    "shortfall",
    "strategy_named",
    "strategy_names",
    "units",
]
