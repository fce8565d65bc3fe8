"""Which options do nothing: a typed option that does nothing is refused, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deadhead.options.clustering import Clustering
from deadhead.pruning.recipe import Recipe

OF_CLUSTERS = ("clusters", "importance", "prompts", "prompt details")
NO_DISTILL = "is for --repair distill; name it, or leave this out"
NO_PROMPTS = (
    "is about prompts, and without --prompts heads are compared on the calibration data; name"
    " prompts, or leave it out"
)
NO_GROUPS = "is for groupings, and there is none to look at; leave it out, or name --grouping"
NO_LM_EVAL = "is for lm-eval, and no task of it is named; name one with --lm-eval, or leave it out"


def idle_of_recipe(recipe: Recipe, prompts: Any) -> Mapping[str, str]:
    """Say of each group of options that a recipe does not look at, why."""
    idle: dict[str, str] = {}
    if recipe.budget is not None:
        idle["heads"] = "and --budget both say where to end; leave one out"
    if recipe.repair != "distill":
        idle["distill"] = NO_DISTILL
    if not recipe.makes_groups:
        why = (
            f"is for strategy 'clusters', and the strategy is {recipe.strategy!r}; leave it out, or"
            " choose --strategy clusters"
        )
        return idle | dict.fromkeys(OF_CLUSTERS, why)
    idle["steps"] = (
        "means nothing to strategy 'clusters', which removes all heads in one move; leave it out"
    )
    if not recipe.needs_scores:
        idle["scores"] = _without_scores(recipe.clustering)
    idle |= idle_of_clusterings([recipe.clustering], prompts)
    if not recipe.needs_prompts:
        why = (
            "is for comparing heads, and random groups with random representatives compare none;"
            " leave it out"
        )
        idle |= dict.fromkeys(("prompts", "prompt details"), why)
    idle.pop("strict", None)  # of a recipe it is about more than prompts
    return idle


def idle_of_clusterings(clusterings: Sequence[Clustering], prompts: Any) -> dict[str, str]:
    """Say of each group of options that none of the groupings looks at, why."""
    if not clusterings:
        return dict.fromkeys((*OF_CLUSTERS, "strict"), NO_GROUPS)
    groupings = [clustering.grouping for clustering in clusterings]
    idle: dict[str, str] = {}
    if prompts is None:
        idle |= dict.fromkeys(("prompt details", "strict"), NO_PROMPTS)
    if "importance_budget" not in groupings:
        idle["importance"] = (
            f"is for grouping 'importance_budget', and there is {', '.join(groupings)} only; leave"
            " it out, or choose --grouping importance_budget"
        )
    return idle


def _without_scores(clustering: Clustering) -> str:
    if clustering.importance is not None:
        return "is for scoring heads, and --importance has their scores; leave one of them out"
    return (
        f"is for scoring heads, and grouping {clustering.grouping!r} looks at no scores; leave it"
        " out, or choose --grouping importance_budget"
    )
