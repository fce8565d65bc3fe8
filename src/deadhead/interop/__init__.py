"""What others left behind: pruning logs and importance tables, read without running any of it."""

from deadhead.interop.importance import read_importance, split_key
from deadhead.interop.logs import read_pruning_log, write_pruning_log
from deadhead.interop.unpickle import unpickle

__all__ = ["read_importance", "read_pruning_log", "split_key", "unpickle", "write_pruning_log"]
