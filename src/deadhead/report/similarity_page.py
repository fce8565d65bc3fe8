"""The page of `deadhead similarity`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deadhead.display.words import number, short_name
from deadhead.report.dendrograms import dendrogram_figure
from deadhead.report.page import Page, Plot, add_provenance
from deadhead.report.similarity_figures import (
    agreement_figure,
    pair_name,
    removed_share_figure,
    similarity_heatmap,
)
from deadhead.report.similarity_summary import (
    SimilaritySummary,
    agreement_table,
    block_table,
    group_table,
    removed_share_table,
)


def write_similarity_report(summary: SimilaritySummary, folder: Path) -> Path:
    """Write `report.html` and `figures/*.{png,svg}` into `folder`.

    Returns the path of the page.
    """
    return similarity_page(summary).write(folder)


def similarity_page(summary: SimilaritySummary) -> Page:
    """Lay out the page of a comparison of heads."""
    said = summary.outcome()
    page = Page(
        summary.title, f"{said[0].upper()}{said[1:]}.", _tiles(summary), list(_caveats(summary))
    )
    page.section(
        "Which heads are alike",
        Plot(
            "dendrograms",
            lambda: dendrogram_figure(
                summary.dendrograms(), height=f"Ward height ({summary.clustering.distance})"
            ),
            "Ward trees of the heads; the tables below list the groups",
            _tree_caption(summary),
        ),
        block_table(summary),
    )
    page.section("Groups", group_table(summary) or "Every head is a group of its own.")
    page.section(
        "Across blocks",
        Plot(
            "similarity",
            lambda: similarity_heatmap(summary.across),
            "Distances of all heads to one another; distances_global.json has the numbers",
            "Distances of all heads to one another; dark = alike, lines divide blocks.",
        ),
        _closest(summary),
    )
    _add_agreement(page, summary)
    _add_removed(page, summary)
    add_provenance(page, summary.run, _facts(summary))
    return page


def _closest(summary: SimilaritySummary) -> str:
    pair = summary.closest()
    if pair is None:
        return "There is no pair of heads to compare."
    first, second, distance = pair
    metric = summary.across.metric
    return f"Most alike in the model: {first} and {second}, {metric} distance {number(distance)}."


def _add_agreement(page: Page, summary: SimilaritySummary) -> None:
    heading, agreement = "Do other prompts give other groups?", summary.agreement
    if agreement is None:
        page.section(heading, "Not compared: there was one draw of one prompt set.")
        return
    page.section(
        heading,
        Plot(
            "agreement",
            lambda: agreement_figure(agreement),
            "Adjusted Rand index of clusterings; the table below has the numbers",
            "How much clusterings of other prompts agree; bars hold 95% of the pairs. Compare two"
            " prompt sets with two draws of one set.",
        ),
        agreement_table(agreement),
    )


def _add_removed(page: Page, summary: SimilaritySummary) -> None:
    heading, by = "Are important heads removed?", summary.importance
    if not summary.removed:
        page.section(heading, "Not measured: no importance was given.")
        return
    page.section(
        heading,
        Plot(
            "removed_share",
            lambda: removed_share_figure(summary.removed, criterion=by),
            "Fraction of important heads removed, against the fraction of all heads removed; the"
            " table below has the numbers",
            f"The most important heads by {short_name(by)} that are not representatives, if the"
            " same groups are made for other amounts of heads.",
        ),
        removed_share_table(summary.removed, by),
    )


def _caveats(summary: SimilaritySummary) -> Iterator[str]:
    yield (
        "Groups say which heads attend alike on these prompts, not that one can replace another."
        " 'deadhead prune --strategy clusters' measures what removing them costs."
    )
    if isinstance(summary.asked, float) and round(summary.asked - summary.actual, 3):
        yield (
            f"{summary.asked:.1%} of the heads were to be removed, {summary.actual:.1%} are:"
            " only whole heads and key/value heads can be."
        )
    if summary.agreement is not None:
        weak = [r for r in summary.agreement.to_dict("records") if r["mean"] < 0.5]
        if weak:
            yield (
                "Groups depend on the prompts: the adjusted Rand index is below 0.5 for"
                f" {'; '.join(map(pair_name, weak))}."
            )
    yield from (f"{note[0].upper()}{note[1:]}." for note in summary.notes)


def _tree_caption(summary: SimilaritySummary) -> str:
    said = "Ward trees of the heads' attention maps, all at one scale."
    if summary.clustering.grouping == "random":
        return f"{said} The groups were drawn at random, so no cut is drawn."
    return f"{said} Dashed: the cut. Each group of two or more has its color inside a block."


def _tiles(summary: SimilaritySummary) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of the numbers on top."""
    mask = summary.plan.mask
    tiles = [
        ("heads", f"{mask.n_heads} → {mask.n_kept}", f"{summary.actual:.1%} removed"),
        ("groups", str(len(summary.groups)), summary.clustering.name),
    ]
    pair = summary.closest()
    if pair is not None:
        tiles.append(("closest pair", f"{pair[0]}, {pair[1]}", f"distance {number(pair[2])}"))
    if summary.agreement is not None:
        first = summary.agreement.iloc[0]
        tiles.append(("agreement", number(float(first["mean"])), "adjusted Rand index of draws"))
    return tiles


def _facts(summary: SimilaritySummary) -> dict[str, Any]:
    """Return what identifies the run, for its provenance."""
    clustering = summary.clustering
    return {
        "model": summary.run.get("model"),
        "distance": clustering.distance,
        "grouping": clustering.grouping,
        "representative": clustering.representative,
        "unit": clustering.unit,
        "Ward on": clustering.ward_on,
        "padding included": clustering.include_padding,
        "first token": clustering.first_token,
        "importance": summary.importance,
    }
