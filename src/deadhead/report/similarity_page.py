"""What `deadhead similarity` found: distances, groups, how far to trust them, and its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deadhead.display import NOTHING, Brief, number, short_name
from deadhead.report.page import Page, Part, Plot, TextTable, add_provenance, table_of
from deadhead.report.similarity_figures import (
    Dendrogram,
    agreement_figure,
    dendrogram_figure,
    pair_name,
    removed_share_figure,
    similarity_heatmap,
)
from deadhead.similarity import Clustering, Group, HeadDistances, linkage
from deadhead.similarity.agreement import RemovedShare
from deadhead.similarity.groupings import named
from deadhead.types import PruningPlan

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class SimilaritySummary(Brief):
    """Everything that the folder of `deadhead similarity` shows.

    Attributes:
        asked: heads to remove, as given.
        within, across: distances inside blocks, and between all heads of the model.
        compared: the distances that were grouped: a cell per block, per key/value head where heads
            share them, or one cell in all.
        groups, plan: every unit is in a group; the plan removes all but the representatives.
        agreement: what `similarity.agreement` returned; None if there was nothing to compare.
        removed: fraction of important heads (by `importance`) removed, at several percentages.
    """

    title: str
    clustering: Clustering
    asked: int | float
    within: HeadDistances
    across: HeadDistances
    compared: HeadDistances
    groups: tuple[Group, ...]
    plan: PruningPlan
    agreement: pd.DataFrame | None = None
    removed: tuple[RemovedShare, ...] = ()
    importance: str = ""
    notes: tuple[str, ...] = ()
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def actual(self) -> float:
        """Fraction of all heads that the plan removes."""
        return self.plan.mask.sparsity

    def outcome(self) -> str:
        """Say in one line how many heads were to be removed, and how many the groups remove."""
        mask = self.plan.mask
        asked = f"{self.asked:.1%}" if isinstance(self.asked, float) else f"{self.asked} heads"
        return (
            f"asked {asked}, actual {self.actual:.1%}: {len(mask.dropped)} of {mask.n_heads} heads"
            f" are represented by another, {mask.n_kept} are kept"
        )

    def closest(self, block: int | None = None) -> tuple[str, str, float] | None:
        """Return the two units that are most alike, and their distance; None if there is no pair.

        Args:
            block: inside this block, among those that may share a group; None: in the whole model.
        """
        inside = self.within if self.clustering.scope == "global" else self.compared
        source = self.across if block is None else inside
        pairs = []
        for matrix, units in zip(source.matrices, source.units, strict=True):
            if len(units) > 1 and block in (None, units[0][0].block):
                rows, columns = np.triu_indices(len(matrix), 1)
                at = int(np.argmin(matrix[rows, columns]))
                a, b = rows[at], columns[at]
                pairs.append((float(matrix[a, b]), named(units[a]), named(units[b])))
        if not pairs:
            return None
        distance, first, second = min(pairs, key=lambda pair: pair[0])
        return first, second, distance

    def dendrograms(self) -> list[Dendrogram]:
        """Return the tree of every cell that was grouped; random groups have no cut in it."""
        trees = []
        chosen = {unit for g in self.groups for unit in [g.representative]}
        seen: dict[int, int] = {}
        for matrix, units in zip(self.compared.matrices, self.compared.units, strict=True):
            if not units:
                continue
            block = units[0][0].block
            several = len({unit[0].block for unit in units}) > 1
            seen[block] = seen.get(block, -1) + 1
            parts = sum(bool(cell) and cell[0][0].block == block for cell in self.compared.units)
            part = f", key/value head {seen[block]}" if parts > 1 else ""
            kept = None if self.clustering.grouping == "random" else len(chosen & set(units))
            trees.append(
                Dendrogram(
                    linkage(matrix, self.compared.metric, ward_on=self.clustering.ward_on),
                    tuple(map(named if several else _inner, units)),
                    kept,
                    "all blocks" if several else f"block {block}{part}",
                )
            )
        return trees

    def _amounts(self) -> dict[str, Any]:
        return {
            "clustering": asdict(self.clustering),
            "asked": self.asked,
            "actual": self.actual,
            "heads_dropped": len(self.plan.mask.dropped),
            "heads": self.plan.mask.n_heads,
        }

    def groups_json(self) -> dict[str, Any]:
        """Return the groups, with the requested and the actual amounts, as a JSON value."""
        return {
            **self._amounts(),
            "groups": [
                {
                    "representative": [str(head) for head in g.representative],
                    "members": [[str(head) for head in unit] for unit in g.members],
                }
                for g in self.groups
            ],
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything but distances, groups and plan as a JSON value."""
        pair = self.closest()
        rows = [] if self.agreement is None else self.agreement.to_dict("records")
        return {
            "title": self.title,
            **self._amounts(),
            "groups": len(self.groups),
            "closest": None if pair is None else {"heads": pair[:2], "distance": pair[2]},
            "agreement": [{str(k): None if v != v else v for k, v in r.items()} for r in rows],
            "removed_share": [asdict(row) for row in self.removed],
            "importance": self.importance or None,
            "notes": list(self.notes),
            "run": dict(self.run),
        }


def _inner(unit: Sequence[Any]) -> str:
    """Name a unit inside its block."""
    return "+".join(str(head.index) for head in unit)


def block_table(summary: SimilaritySummary) -> TextTable:
    """List per block how many heads there are, how many groups, and the closest pair."""
    rows = []
    for block, kept in enumerate(summary.plan.mask.kept):
        here = [g for g in summary.groups if any(u[0].block == block for u in g.members)]
        units = sum(u[0].block == block for g in here for u in g.members)
        pair = summary.closest(block)
        ends = [NOTHING, NOTHING] if pair is None else [f"{pair[0]}, {pair[1]}", number(pair[2])]
        rows.append([str(block), str(units), str(len(here)), str(sum(kept)), *ends])
    unit = "key/value heads" if summary.clustering.unit == "kv" else "heads"
    columns = ("block", unit, "groups", "heads kept", "closest pair")
    return TextTable(
        (*columns, f"{summary.compared.metric} distance"), rows, words=("closest pair",)
    )


def group_table(summary: SimilaritySummary) -> TextTable:
    """List the groups of two or more: the head kept, and those that it represents."""
    columns = {
        "kept": lambda group: named(group.representative),
        "represents": lambda group: " ".join(map(named, group.others)),
    }
    return table_of((g for g in summary.groups if g.others), columns, words=tuple(columns))


def agreement_table(agreement: pd.DataFrame) -> TextTable:
    """List how much clusterings agree, a row for each pair of prompt sets."""
    columns = {
        "prompts": pair_name,
        "adjusted Rand index": lambda row: number(row["mean"]),
        "95% of pairs": lambda row: (
            NOTHING if np.isnan(row["low"]) else f"{number(row['low'])} to {number(row['high'])}"
        ),
        "pairs": lambda row: str(row["pairs"]),
    }
    return table_of(agreement.to_dict("records"), columns, words=("prompts",))


def removed_share_table(removed: Sequence[RemovedShare], criterion: str) -> TextTable:
    """List the fraction of important heads that is removed, beside chance."""
    columns = {
        "heads removed": lambda row: f"{row.n_dropped / row.n_heads:.1%}",
        "count": lambda row: str(row.n_dropped),
        "of the important": lambda row: f"{row.share:.1%}",
        "by chance": lambda row: f"{row.expected:.1%}",
        "95% of chance": lambda row: f"{row.low:.1%} to {row.high:.1%}",
    }
    return table_of(removed, columns, title=f"important heads, by {short_name(criterion)}")


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
    page.section("Do other prompts give other groups?", *_agreement(summary))
    page.section("Are important heads removed?", *_removed(summary))
    how = {k.replace("_", " "): v for k, v in asdict(summary.clustering).items()}
    how |= {"importance": summary.importance, "model": summary.run.get("model")}
    add_provenance(page, summary.run, how)
    return page


def _closest(summary: SimilaritySummary) -> str:
    pair = summary.closest()
    if pair is None:
        return "There is no pair of heads to compare."
    first, second, distance = pair
    metric = summary.across.metric
    return f"Most alike in the model: {first} and {second}, {metric} distance {number(distance)}."


def _agreement(summary: SimilaritySummary) -> tuple[Part, ...]:
    agreement = summary.agreement
    if agreement is None:
        return ("Not compared: there was one draw of one prompt set.",)
    figure = Plot(
        "agreement",
        lambda: agreement_figure(agreement),
        "Adjusted Rand index of clusterings; the table below has the numbers",
        "How much clusterings of other prompts agree; bars hold 95% of the pairs. Compare two"
        " prompt sets with two draws of one set.",
    )
    return figure, agreement_table(agreement)


def _removed(summary: SimilaritySummary) -> tuple[Part, ...]:
    by = summary.importance
    if not summary.removed:
        return ("Not measured: no importance was given.",)
    figure = Plot(
        "removed_share",
        lambda: removed_share_figure(summary.removed, criterion=by),
        "Fraction of important heads removed, against the fraction of all heads removed; the"
        " table below has the numbers",
        f"The most important heads by {short_name(by)} that are not representatives, if the"
        " same groups are made for other amounts of heads.",
    )
    return figure, removed_share_table(summary.removed, by)


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
