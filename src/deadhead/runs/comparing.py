"""The steps of `deadhead similarity`: prompts, importance, and groups by other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from deadhead.checkpoints import Loaded
from deadhead.data.prompts import Prompts
from deadhead.errors import BudgetError, DataError
from deadhead.interop import read_importance, split_key
from deadhead.models.heads import HeadModel
from deadhead.runs.settings import PromptSettings
from deadhead.runs.similarity_settings import SimilaritySettings
from deadhead.runs.watch import Watch
from deadhead.scoring import score_all
from deadhead.similarity import (
    Clustering,
    Group,
    HeadDistances,
    HeadGrams,
    cluster,
    head_grams,
    measured,
    removed_share,
)
from deadhead.similarity.agreement import RemovedShare
from deadhead.strategies import Rules, droppable
from deadhead.types import Head, HeadScores

PERCENTAGES = tuple(p / 100 for p in range(10, 100, 10))

Draws = Mapping[str, Sequence[Prompts]]
Groups = tuple[Group, ...]


def to_drop(view: HeadModel, clustering: Clustering, heads: int | float) -> int:
    """Turn an amount of heads into how many go, of those that are there."""
    gqa = "whole_groups" if clustering.unit == "kv" else "ungroup"
    mask = view.mask
    return droppable(view, mask, Rules(gqa=gqa), heads) - len(mask.dropped)


def check_room(view: HeadModel, clustering: Clustering, n_drop: int) -> None:
    """Refuse an amount that leaves a block without a representative, before any pass."""
    held = [tuple(Head(n, i) for i in b.original.heads) for n, b in enumerate(view.blocks)]
    cells = tuple(held) if clustering.scope == "per_block" else (tuple(sum(held, ())),)
    grams = HeadGrams(tuple(np.eye(len(cell)) for cell in cells), cells, prompts=0)
    even = "global" if clustering.grouping == "global" else "balanced"
    cluster(measured(view, grams, clustering), n_drop, replace(clustering, grouping=even))


def open_draws(
    loaded: Loaded, settings: SimilaritySettings
) -> tuple[dict[str, list[Prompts]], list[str]]:
    """Open the draws of all prompts; draws that are the same prompts are one."""
    if loaded.tokenizer is None:
        raise DataError(
            "the model has no tokenizer to read text with; put its tokenizer files"
            " (tokenizer.json, tokenizer_config.json) into the folder"
        )
    draws: dict[str, list[Prompts]] = {}
    notes: list[str] = []
    for name, spec in settings.sources.items():
        opened: dict[str, Prompts] = {}
        for seed in range(settings.seed, settings.seed + settings.draws):
            prompts = PromptSettings(
                spec,
                n=settings.n,
                column=settings.column,
                max_length=settings.max_length,
                strict=settings.strict,
                seed=seed,
            ).open(loaded.tokenizer, loaded.model.config)
            opened.setdefault(prompts.fingerprint, prompts)
            if settings.n is None:  # all prompts, whatever the seed
                break
        draws[name] = list(opened.values())
        notes += draws[name][0].notes
        if len(opened) < settings.draws:
            notes.append(
                f"{settings.draws} draws of {name} were asked for, and there are {len(opened)}:"
                " give more prompts, or a smaller -n"
            )
    return draws, notes


def importance_of(
    view: HeadModel, prompts: Prompts, settings: SimilaritySettings, watch: Watch
) -> HeadScores | None:
    """Read the scores of a file, or score by a criterion on prompts."""
    name = settings.importance
    if name is None:
        return None
    if settings.importance_is_file:
        file, key = split_key(name)
        return read_importance(file, counts=view.mask.counts, key=key)
    batches = prompts.batches() if settings.scores_on_prompts else None
    return score_all(
        view, batches, [name], seed=settings.seed, on_batch=lambda: watch.on_work("comparing")
    )[name]


def draw_grams(
    view: HeadModel, prompts: Prompts, scope: str, clustering: Clustering, watch: Watch
) -> HeadGrams:
    """Run prompts as a clustering asks for."""
    return head_grams(
        view,
        prompts.batches(),
        scope=scope,
        include_padding=clustering.include_padding,
        first_token=clustering.first_token,
        on_batch=lambda: watch.on_work("comparing"),
    )


def groups_by_draw(
    view: HeadModel,
    draws: Draws,
    groups: Groups,
    n_drop: int,
    settings: SimilaritySettings,
    importance: HeadScores | None,
    watch: Watch,
) -> dict[str, list[Groups]]:
    """Group the heads by each draw of prompts; `groups` are those of the very first."""
    clustering = settings.clustering
    found: dict[str, list[Groups]] = {}
    number = 0
    for name, drawn in draws.items():
        for prompts in drawn:
            other = groups
            if number:
                grams = draw_grams(view, prompts, clustering.scope, clustering, watch)
                # what is drawn at random is drawn anew, or it would agree with itself
                anew = replace(clustering, seed=clustering.seed + number)
                other = cluster(measured(view, grams, clustering), n_drop, anew, importance)
            found.setdefault(name, []).append(other)
            number += 1
    return found


def removed_shares(
    view: HeadModel,
    compared: HeadDistances,
    settings: SimilaritySettings,
    importance: HeadScores | None,
) -> tuple[list[RemovedShare], list[str]]:
    """Group for each percentage, and look which important heads would go."""
    if importance is None:
        return [], []
    rows: dict[int, RemovedShare] = {}
    unreached = []
    for fraction in PERCENTAGES:
        try:
            n_drop = to_drop(view, settings.clustering, fraction)
            groups = cluster(compared, n_drop, settings.clustering, importance)
        except BudgetError:
            unreached.append(f"{fraction:.0%}")
            continue
        rows[n_drop] = removed_share(groups, importance, settings.important)
    said = f"no groups at {', '.join(unreached)}: too many heads, or none, would go"
    return list(rows.values()), [said] if unreached else []
