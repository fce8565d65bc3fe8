"""Options that would change nothing are refused: who types one expects it to do something."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from deadhead.cli.console import fail
from deadhead.pruning.recipe import Recipe
from deadhead.similarity import Clustering

CLUSTERS = (
    *("distance", "grouping", "representative", "unit", "ward_on", "include_padding"),
    *("first_token", "importance", "slope"),
)
DISTILL = ("distill_of", "epochs", "learning_rate", "seconds", "lora", "train")
PROMPTS = ("n_prompts", "prompt_column")
STRICT = ("strict",)  # where it is about prompts alone
LM_EVAL = ("include_path", "num_fewshot", "limit", "lm_eval_output")


def refuse_typed(context: typer.Context, names: Sequence[str], why: str) -> None:
    """End with exit code 2 if one of these parameters was typed; defaults are all right.

    Args:
        context: of the command.
        names: of parameters; those that the command lacks are passed over.
        why: the rest of the line: what the option is for, and what to do.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            fail(f"{parameter.opts[0]} {why}")


def check_recipe(context: typer.Context, recipe: Recipe) -> None:
    """Refuse what the strategy of `prune` or `plan` does not look at."""
    if recipe.budget is not None:
        refuse_typed(context, ("heads",), "and --budget both say where to end; leave one out")
    if recipe.repair != "distill":
        refuse_typed(context, DISTILL, "is for --repair distill; name it, or leave this out")
    if recipe.strategy != "clusters":
        refuse_typed(
            context,
            (*CLUSTERS, "prompts", *PROMPTS),
            f"is for strategy 'clusters', and the strategy is {recipe.strategy!r}; leave it out, or"
            " choose --strategy clusters",
        )
        return
    refuse_typed(
        context,
        ("per_step",),
        "means nothing to strategy 'clusters', which drops all heads in one move; leave it out",
    )
    if not recipe.needs_prompts:
        refuse_typed(
            context,
            ("prompts", *PROMPTS),
            "is for comparing heads, and random groups with random representatives compare none;"
            " leave it out",
        )
    check_importance(context, [recipe.clustering])
    if not recipe.needs_scores:
        refuse_typed(context, ("scores", "criterion", "loss"), _without_scores(recipe.clustering))


def _without_scores(clustering: Clustering) -> str:
    if clustering.importance is not None:
        return "is for scoring heads, and --importance has their scores; leave one of them out"
    return (
        f"is for scoring heads, and grouping {clustering.grouping!r} looks at no scores; leave it"
        " out, or choose --grouping importance_budget"
    )


def check_clusterings(context: typer.Context, clusterings: Sequence[Clustering]) -> None:
    """Refuse what none of the groupings of a sweep looks at."""
    if not clusterings:
        refuse_typed(
            context,
            (*(name for name in CLUSTERS if name != "grouping"), "prompts", *PROMPTS, *STRICT),
            "is for groupings, and there is none to look at; leave it out, or name --grouping",
        )
    check_importance(context, clusterings)


def check_importance(context: typer.Context, clusterings: Sequence[Clustering]) -> None:
    """Refuse a table of importance that no grouping looks at."""
    groupings = [clustering.grouping for clustering in clusterings]
    if "importance_budget" not in groupings:
        refuse_typed(
            context,
            ("importance",),
            f"is for grouping 'importance_budget', and there is {', '.join(groupings)} only; leave"
            " it out, or choose --grouping importance_budget",
        )


def check_prompts(
    context: typer.Context, prompts: str | None, names: Sequence[str] = PROMPTS
) -> None:
    """Refuse options of prompts where heads are compared on the calibration data."""
    if prompts is None:
        refuse_typed(
            context,
            names,
            "is about prompts, and without --prompts heads are compared on the calibration data;"
            " name prompts, or leave it out",
        )


def check_lm_eval(context: typer.Context, lm_eval: str | None) -> None:
    """Refuse options of lm-eval where none of its tasks is named."""
    if lm_eval is None:
        refuse_typed(
            context,
            LM_EVAL,
            "is for lm-eval, and no task of it is named; name one with --lm-eval, or leave it out",
        )
