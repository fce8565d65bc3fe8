"""clusters: group heads with similar attention maps, keep one of each group."""

from __future__ import annotations

from collections.abc import Iterator

from deadhead.errors import DataError
from deadhead.interop.importance import read_importance, split_key
from deadhead.similarity.distances import measured, unmeasured
from deadhead.similarity.groupings import cluster, copies_of
from deadhead.strategies.base import Move, StrategyContext, register_strategy
from deadhead.types import HeadScores


@register_strategy("clusters", nested=False, makes_groups=True)
def clusters(context: StrategyContext) -> Iterator[Move]:
    """Group heads with similar attention maps and keep one of each group, in one move.

    The move's `copies` name for every dropped head the one that stands for it. Masks of different
    numbers of heads are not nested: ask for each on its own.

    Cost: one forward pass over the prompts, none for random groups with random representatives; one
    scoring for `importance_budget` without a table.
    Source: explainabloomity (duplication pruning).
    """
    view, clustering = context.view, context.rules.clustering
    n_drop = context.limit - len(context.start.dropped)
    if n_drop <= 0:
        return
    if not clustering.needs_prompts:
        distances = unmeasured(view, clustering)
    elif context.grams is None:
        raise DataError("strategy 'clusters' compares heads on prompts, and there are none")
    else:
        distances = measured(view, context.grams(clustering.scope), clustering)
    copies = copies_of(cluster(distances, n_drop, clustering, _importance(context)))
    yield Move(context.start.drop(*copies), tuple(copies), (), copies)


def _importance(context: StrategyContext) -> HeadScores | None:
    clustering, origin = context.rules.clustering, context.origin
    if clustering.needs_scores:
        return context.score(origin)
    if not clustering.needs_importance:
        return None
    file, key = split_key(clustering.importance or "")
    return read_importance(file, counts=origin.counts, key=key)
