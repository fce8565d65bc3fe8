"""A look at how alike heads are: distances, groups and how stable they are, in one folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from deadhead.display.words import short_name
from deadhead.errors import BudgetError
from deadhead.files import check_empty, locked, whole_folder, write_json
from deadhead.interop import write_pruning_log
from deadhead.measure import Timer
from deadhead.models.heads import HeadModel
from deadhead.options.amounts import count_heads
from deadhead.report.similarity_page import write_similarity_report
from deadhead.report.similarity_summary import SimilaritySummary
from deadhead.runs.comparing import (
    Groups,
    check_room,
    draw_grams,
    groups_by_draw,
    importance_of,
    open_draws,
    removed_shares,
    to_drop,
)
from deadhead.runs.facts import data_facts, occasion, provenance_of
from deadhead.runs.similarity_settings import SimilaritySettings
from deadhead.runs.watch import Watch
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


def run_similarity(
    settings: SimilaritySettings, *, watch: Watch | None = None
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
        return _run(settings, watch or Watch())


def _run(settings: SimilaritySettings, watch: Watch) -> SimilaritySummary:
    timer = Timer()
    _ = settings.sources  # checks itself
    clustering = settings.clustering
    loaded = settings.model.load()
    view = HeadModel(loaded.model)
    n_drop = to_drop(view, clustering, settings.heads)
    check_room(view, clustering, n_drop)
    _check_important(view, settings)
    draws, notes = open_draws(loaded, settings)
    first = next(iter(draws.values()))[0]
    passes = [prompts for drawn in draws.values() for prompts in drawn]
    passes += [first] * settings.scores_on_prompts
    watch.on_total(sum(len(prompts.batches()) for prompts in passes))
    for name, drawn in draws.items():
        size = f"{drawn[0].size} prompts of {drawn[0].name}"
        watch.on_note(f"{name}: {size}, {len(drawn)} draws")
    importance = importance_of(view, first, settings, watch)
    whole = draw_grams(view, first, "global", clustering, watch)
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
        title=f"{short_name(loaded.name)}: {clustering.name}",
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
            **provenance_of(
                model=loaded.name, data=data, command=settings.command, seed=settings.seed
            ),
            **occasion(timer, settings.model.device),
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
        write_json(folder / f"{name}.json", value)
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
    made = {"strategy": "clusters", "heads": settings.heads, **asdict(settings.clustering)}
    return PruningPlan(
        view.mask.drop(*copies),
        copies,
        action="duplicate",
        gqa="ungroup" if shared and settings.clustering.unit == "head" else "whole_groups",
        provenance={**made, **provenance_of(model=name, data=data)},
    )
