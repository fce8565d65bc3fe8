"""A look at how alike heads are: distances, groups and how stable they are, in one folder."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from deadhead.checkpoints import load_model
from deadhead.errors import BudgetError
from deadhead.files import check_empty, locked, whole_folder
from deadhead.interop import write_pruning_log
from deadhead.measure import Timer
from deadhead.models.heads import HeadModel
from deadhead.options.amounts import count_heads
from deadhead.report.similarity_page import write_similarity_report
from deadhead.report.similarity_summary import SimilaritySummary
from deadhead.runs.comparing import (
    Groups,
    SimilarityWatch,
    check_room,
    grams_of,
    groups_by_draw,
    importance_of,
    open_draws,
    removed_shares,
    to_drop,
)
from deadhead.runs.facts import data_facts, versions
from deadhead.runs.similarity_settings import SimilaritySettings
from deadhead.similarity import (
    Clustering,
    HeadDistances,
    HeadGrams,
    cluster,
    copies_of,
    kv_units,
    measured,
    save_distances,
)
from deadhead.similarity.agreement import agreement
from deadhead.similarity.distances import distances
from deadhead.similarity.gram import per_block
from deadhead.types import PruningPlan


def conduct_similarity(
    settings: SimilaritySettings, *, watch: SimilarityWatch | None = None
) -> SimilaritySummary:
    """Measure how alike heads are, group them, and write the folder: whole, or not at all.

    The first draw of the first prompts makes the distances, the groups and the plan; the other
    draws and prompts are grouped alike, and compared.

    Cost: one forward pass per draw of prompts; importance by a criterion costs its passes over the
    first draw.

    Raises:
        DeadheadError: of any kind; the folder is then not there.
    """
    check_empty(settings.output)  # before anything that takes long
    with locked(settings.output):
        return _conduct_similarity(settings, watch or SimilarityWatch())


def _conduct_similarity(settings: SimilaritySettings, watch: SimilarityWatch) -> SimilaritySummary:
    timer = Timer()
    _ = settings.sources  # checks itself
    clustering = settings.clustering
    loaded = load_model(**asdict(settings.model))
    view = HeadModel(loaded.model)
    n_drop = to_drop(view, clustering, settings.heads)
    check_room(view, clustering, n_drop)
    _check_important(view, settings)
    draws, notes = open_draws(loaded, settings)
    first = next(iter(draws.values()))[0]
    passes = [prompts for drawn in draws.values() for prompts in drawn]
    passes += [first] * settings.scores_on_prompts
    watch.on_start(loaded, draws, sum(len(prompts.batches()) for prompts in passes))
    importance = importance_of(view, first, settings, watch)
    whole = grams_of(view, first, "global", clustering, watch)
    grams = {"global": whole, "per_block": per_block(whole, len(view.blocks))}
    compared = measured(view, grams[clustering.scope], clustering)
    groups = cluster(compared, n_drop, clustering, importance)
    others = groups_by_draw(view, draws, groups, n_drop, settings, importance, watch)
    several = sum(map(len, others.values())) > 1
    removed, unreached = removed_shares(view, compared, settings, importance)
    if view.mask.dropped:
        notes.append("no pruning log was written: it cannot say which heads were cut before")
    data = {name: data_facts(prompts=drawn[0])["prompts"] for name, drawn in draws.items()}
    summary = SimilaritySummary(
        title=f"{loaded.name}: {clustering.name}",
        clustering=clustering,
        asked=settings.heads,
        within=_between(view, grams["per_block"], clustering),
        across=_between(view, grams["global"], clustering),
        compared=compared,
        groups=groups,
        plan=_plan(view, groups, loaded.name, settings, data),
        agreement=agreement(others, seed=settings.seed) if several else None,
        removed=tuple(removed),
        importance="" if importance is None else importance.criterion,
        notes=(*dict.fromkeys([*notes, *unreached]),),
        run={
            "command": settings.command,
            "model": loaded.name,
            "versions": versions(),
            "data": data,
            "seed": settings.seed,
            "date": datetime.now(UTC).date().isoformat(),
            "seconds": timer.seconds,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads,"
            f" {settings.model.device}",
        },
    )
    with whole_folder(settings.output) as folder:
        write_similarity(summary, folder)
    return summary


def write_similarity(summary: SimilaritySummary, folder: Path) -> None:
    """Write everything: distances, groups, plan, log, tables, figures and report."""
    save_distances(summary.within, folder / "distances.json")
    save_distances(summary.across, folder / "distances_global.json")
    for name, value in (
        ("groups", summary.groups_json()),
        ("plan", summary.plan.to_json()),
        ("run", summary.to_json()),
    ):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    if set(summary.plan.copies) == set(summary.plan.mask.dropped):
        spans = any(head.block != source.block for head, source in summary.plan.copies.items())
        write_pruning_log(summary.plan, folder / "pruning_log.txt", columns=4 if spans else 3)
    if summary.agreement is not None:
        summary.agreement.to_csv(folder / "agreement.csv", index=False)
    if summary.removed:
        import pandas as pd

        frame = pd.DataFrame([asdict(row) for row in summary.removed])
        frame.to_csv(folder / "removed_share.csv", index=False)
    write_similarity_report(summary, folder)


def _check_important(view: HeadModel, settings: SimilaritySettings) -> None:
    """Refuse, before any pass, a share of important heads that is no head."""
    if settings.importance is None or count_heads(settings.important, view.mask.n_kept):
        return
    raise BudgetError(
        f"{settings.important:.2%} of {view.mask.n_kept} heads is no head; call at least one"
        " important"
    )


def _between(view: HeadModel, grams: HeadGrams, clustering: Clustering) -> HeadDistances:
    """Return the distances between all units of a cell, whether they may share a group or not."""
    groups = kv_units(view) if clustering.unit == "kv" else None
    return distances(grams, clustering.distance, groups=groups)


def _plan(
    view: HeadModel, groups: Groups, name: str, settings: SimilaritySettings, data: Any
) -> PruningPlan:
    """Make the plan that has the heads of each group copy the one that stands for it."""
    copies = copies_of(groups)
    shared = any(block.n_heads != block.n_kv_heads for block in view.blocks)
    provenance = {
        "model": name,
        "strategy": "clusters",
        "heads": settings.heads,
        **asdict(settings.clustering),
        "data": data,
        "versions": versions(),
    }
    return PruningPlan(
        view.mask.drop(*copies),
        copies,
        action="duplicate",
        gqa="ungroup" if shared and settings.clustering.unit == "head" else "whole_groups",
        provenance=provenance,
    )
