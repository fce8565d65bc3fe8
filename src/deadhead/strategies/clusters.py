"""clusters: group heads with alike attention maps, keep one of each group."""

from __future__ import annotations

from collections.abc import Iterator

from deadhead.interop import read_importance, split_key
from deadhead.models.heads import HeadModel
from deadhead.similarity import GramFn, cluster, copies_of, measured, unmeasured
from deadhead.strategies.base import Move, ScoreFn, register_strategy
from deadhead.strategies.units import Rules
from deadhead.types import HeadMask, HeadScores


@register_strategy("clusters")
def clusters(
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
    """Group heads with alike attention maps and let one stand for each group, in one move.

    The move's `copies` name for every dropped head the one that stands for it. Cuts at different
    numbers of heads are not nested: ask for each on its own.

    Cost: one forward pass over the prompts, none for random groups with random representatives; one
    scoring for `importance_budget` without a table.
    Source: explainabloomity (duplication pruning).
    """
    n_drop = limit - len(start.dropped)
    if n_drop <= 0:
        return
    how = rules.clustering
    found = measured(view, grams(how.scope), how) if how.needs_prompts else unmeasured(view, how)
    importance = _importance(score, origin, rules)
    copies = copies_of(cluster(found, n_drop, how, importance))
    yield Move(start.drop(*copies), tuple(copies), (), copies)


def _importance(score: ScoreFn, origin: HeadMask, rules: Rules) -> HeadScores | None:
    if rules.clustering.grouping != "importance_budget":
        return None
    if rules.clustering.importance is None:
        return score(origin)
    file, key = split_key(rules.clustering.importance)
    return read_importance(file, counts=origin.counts, key=key)
