"""How alike heads are: distances, groups and how stable they are, in one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deadhead.checkpoints import Loaded
from deadhead.data.prompts import Prompts
from deadhead.display import short_name
from deadhead.errors import BudgetError
from deadhead.files import check_empty, locked, whole_folder, write_json
from deadhead.interop import read_importance, split_key, write_pruning_log
from deadhead.measure import Timer
from deadhead.models.architectures import origin_of
from deadhead.models.heads import HeadModel
from deadhead.options.values import count_heads
from deadhead.report.similarity_page import SimilaritySummary, similarity_page
from deadhead.runs.facts import data_facts, occasion, provenance_of
from deadhead.runs.run_settings import SimilaritySettings, Watch
from deadhead.runs.settings import PromptOptions, PromptSettings, need_tokenizer
from deadhead.scoring import score_all
from deadhead.similarity import (
    Clustering,
    Group,
    HeadDistances,
    HeadGrams,
    cluster,
    copies_of,
    head_grams,
    kv_units,
    measured,
    removed_share,
    save_distances,
)
from deadhead.similarity.agreement import RemovedShare, agreement
from deadhead.similarity.distances import distances
from deadhead.similarity.gram import per_block
from deadhead.strategies import Rules, droppable
from deadhead.studies.grid import GROUPS
from deadhead.tasks import Task
from deadhead.types import Head, HeadScores, PruningPlan

PERCENTAGES = tuple(p / 100 for p in range(10, 100, 10))

Draws = Mapping[str, Sequence[Prompts]]
Groups = tuple[Group, ...]
OnBatch = Callable[[], None]


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
    need_tokenizer(loaded.tokenizer)
    draws: dict[str, list[Prompts]] = {}
    notes: list[str] = []
    how = {field.name: getattr(settings, field.name) for field in fields(PromptOptions)}
    for name, spec in settings.sources.items():
        opened: dict[str, Prompts] = {}
        for seed in range(settings.seed, settings.seed + settings.draws):
            given = PromptSettings(spec, **{**how, "seed": seed})
            prompts = given.open(loaded.tokenizer, loaded.model.config)
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
    view: HeadModel, prompts: Prompts, settings: SimilaritySettings, on_batch: OnBatch
) -> HeadScores | None:
    """Read the scores of a file, or score by a criterion on prompts."""
    name = settings.importance
    if name is None:
        return None
    if settings.importance_is_file:
        file, key = split_key(name)
        return read_importance(file, counts=view.mask.counts, key=key)
    batches = prompts.batches() if settings.scores_on_prompts else None
    return score_all(view, batches, [name], seed=settings.seed, on_batch=on_batch)[name]


def draw_grams(
    view: HeadModel,
    prompts: Prompts | Task,
    scope: str,
    clustering: Clustering,
    on_batch: OnBatch = lambda: None,
) -> HeadGrams:
    """Run prompts as a clustering asks for."""
    return head_grams(
        view,
        prompts.batches(),
        scope=scope,
        include_padding=clustering.include_padding,
        first_token=clustering.first_token,
        on_batch=on_batch,
    )


def groups_by_draw(
    view: HeadModel,
    draws: Draws,
    groups: Groups,
    n_drop: int,
    settings: SimilaritySettings,
    importance: HeadScores | None,
    on_batch: OnBatch,
) -> dict[str, list[Groups]]:
    """Group the heads by each draw of prompts; `groups` are those of the very first."""
    clustering = settings.clustering
    found: dict[str, list[Groups]] = {}
    number = 0
    for name, drawn in draws.items():
        for prompts in drawn:
            other = groups
            if number:
                grams = draw_grams(view, prompts, clustering.scope, clustering, on_batch)
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


def run_similarity(
    settings: SimilaritySettings, *, watch: Watch | None = None
) -> SimilaritySummary:
    """Measure how alike heads are, group them, and write the folder: whole, or not at all.

    The first draw of the first prompts makes the distances, the groups and the plan; the other
    draws and prompts are grouped alike, and compared.

    Cost: one forward pass per draw of prompts; importance by a criterion costs its passes over the
    first draw.
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
    on_batch = partial(watch.on_work, "comparing")
    watch.on_total(sum(len(prompts.batches()) for prompts in passes))
    for name, drawn in draws.items():
        size = f"{drawn[0].size} prompts of {drawn[0].name}"
        watch.on_note(f"{name}: {size}, {len(drawn)} draws")
    importance = importance_of(view, first, settings, on_batch)
    whole = draw_grams(view, first, "global", clustering, on_batch)
    grams = {"global": whole, "per_block": per_block(whole, len(view.blocks))}
    compared = measured(view, grams[clustering.scope], clustering)
    groups = cluster(compared, n_drop, clustering, importance)
    others = groups_by_draw(view, draws, groups, n_drop, settings, importance, on_batch)
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
                model=loaded.name,
                record=origin_of(view.records),
                data=data,
                command=settings.command,
                seed=settings.seed,
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
    similarity_page(summary).write(folder)


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
    record = origin_of(view.records)
    made = {"strategy": GROUPS, "heads": settings.heads, **asdict(settings.clustering)}
    return PruningPlan(
        view.mask.drop(*copies),
        copies,
        action="duplicate",
        gqa="ungroup" if shared and settings.clustering.unit == "head" else "whole_groups",
        provenance={**made, **provenance_of(model=name, record=record, data=data)},
    )
