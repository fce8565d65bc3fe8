"""The page of `deadhead similarity`, and its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deadhead.errors import MissingDependencyError
from deadhead.files import write_text
from deadhead.report.contents import data_rows
from deadhead.report.dendrograms import dendrogram_figure, dendrogram_grid
from deadhead.report.figures import save_figure
from deadhead.report.page import render_page
from deadhead.report.similarity_figures import (
    agreement_figure,
    removed_share_figure,
    similarity_heatmap,
)
from deadhead.report.similarity_summary import (
    SimilaritySummary,
    agreement_rows,
    block_rows,
    group_rows,
    removed_rows,
)
from deadhead.report.wording import number


def write_similarity_report(summary: SimilaritySummary, folder: Path) -> Path:
    """Write `report.html` and `figures/*.{png,svg}` into `folder`.

    The page needs nothing else, as that of a run. Without matplotlib it has no figures.

    Returns the path of the page.
    """
    try:
        figures = _write_figures(summary, folder / "figures")
    except MissingDependencyError:
        figures = {}
    write_text(folder / "report.html", render_similarity(summary, figures))
    return folder / "report.html"


def render_similarity(summary: SimilaritySummary, figures: Mapping[str, str]) -> str:
    """Return the page; `figures` holds SVG source by name, or is empty."""
    pair = summary.closest()
    return render_page(
        "similarity.html.j2",
        figures,
        title=summary.title,
        outcome=f"{summary.outcome()[0].upper()}{summary.outcome()[1:]}.",
        caveats=list(_caveats(summary)),
        tiles=_tiles(summary),
        tree_caption=_tree_caption(summary),
        blocks=block_rows(summary),
        groups=group_rows(summary),
        closest="There is no pair of heads to compare."
        if pair is None
        else f"The two that are most alike in the whole model: {pair[0]} and {pair[1]}, at"
        f" {summary.across.metric} distance {number(pair[2])}.",
        agreement=None if summary.agreement is None else agreement_rows(summary.agreement),
        removed=removed_rows(summary.removed) if summary.removed else None,
        importance=summary.importance,
        command=str(summary.run.get("command") or ""),
        data=data_rows(summary.run.get("data") or {}),
        facts=_facts(summary),
    )


def _write_figures(summary: SimilaritySummary, folder: Path) -> dict[str, str]:
    trees = summary.dendrograms()
    height = f"Ward height ({summary.clustering.distance})"
    if len(trees) == 1:
        (tree,) = trees
        drawn = dendrogram_figure(tree.tree, tree.labels, tree.n_groups, tree.title, height=height)
    else:
        drawn = dendrogram_grid(trees, height=height)
    figures = {"dendrograms": drawn, "similarity": similarity_heatmap(summary.across)}
    if summary.agreement is not None:
        figures["agreement"] = agreement_figure(summary.agreement)
    if summary.removed:
        figures["removed_share"] = removed_share_figure(
            summary.removed, criterion=summary.importance
        )
    written = {name: save_figure(figure, folder, name) for name, figure in figures.items()}
    return {name: paths[-1].read_text(encoding="utf-8") for name, paths in written.items()}


def _caveats(summary: SimilaritySummary) -> Iterator[str]:
    yield (
        "Groups say which heads attend alike on these prompts, not that one can do the work of the"
        " other: what dropping costs, 'deadhead prune --strategy clusters' measures."
    )
    if isinstance(summary.asked, float) and round(summary.asked - summary.actual, 3):
        yield (
            f"Asked were {summary.asked:.1%} of the heads, had {summary.actual:.1%}: heads and"
            " key/value heads go whole."
        )
    if summary.agreement is not None:
        weak = [r for r in summary.agreement.to_dict("records") if r["mean"] < 0.5]
        if weak:
            pairs = [
                r["first"] if r["first"] == r["second"] else f"{r['first']}, {r['second']}"
                for r in weak
            ]
            yield (
                "Groups depend on the prompts: the adjusted Rand index is below 0.5 for"
                f" {'; '.join(pairs)}."
            )
    yield from (f"{note[0].upper()}{note[1:]}." for note in summary.notes)


def _tree_caption(summary: SimilaritySummary) -> str:
    said = "Ward trees of the heads' attention maps, all at one scale."
    if summary.clustering.grouping == "random":
        return f"{said} The groups were drawn at random, so no cut of these trees is theirs."
    return f"{said} Dashed: the cut. Each group of two or more has its colour inside a block."


def _tiles(summary: SimilaritySummary) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of the numbers on top."""
    mask = summary.plan.mask
    tiles = [
        ("heads", f"{mask.n_heads} → {mask.n_kept}", f"actual {summary.actual:.1%}"),
        ("groups", str(len(summary.groups)), summary.clustering.name),
    ]
    pair = summary.closest()
    if pair is not None:
        tiles.append(("closest pair", f"{pair[0]}, {pair[1]}", f"distance {number(pair[2])}"))
    if summary.agreement is not None:
        first = summary.agreement.iloc[0]
        tiles.append(("agreement", number(float(first["mean"])), "adjusted Rand index of draws"))
    return tiles


def _facts(summary: SimilaritySummary) -> list[tuple[str, str]]:
    """Return (name, value) of what else identifies the run; what is unknown is left out."""
    run, clustering = summary.run, summary.clustering
    facts: dict[str, Any] = {
        "model": run.get("model"),
        "distance": clustering.distance,
        "grouping": clustering.grouping,
        "representative": clustering.representative,
        "unit": clustering.unit,
        "Ward on": clustering.ward_on,
        "padding included": clustering.include_padding,
        "first token": clustering.first_token,
        "importance": summary.importance,
        **{key: run.get(key) for key in ("seed", "date", "machine")},
        "seconds": number(run.get("seconds")) if run.get("seconds") is not None else None,
        "versions": ", ".join(f"{n} {v}" for n, v in (run.get("versions") or {}).items()),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]
