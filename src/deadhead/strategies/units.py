"""What can be dropped at once, least important first: heads, or the groups they are bound into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deadhead.errors import BudgetError, unknown_name
from deadhead.heads import HeadModel
from deadhead.surgery.groups import members_of, policy_named
from deadhead.types import Head, HeadMask, HeadScores, count_heads

Unit = tuple[Head, ...]
SCOPES = ("global", "per_block")


@dataclass(frozen=True)
class Rules:
    """What a strategy may drop.

    Attributes:
        inverse: drop the most important first.
        scope: `global` ranks all heads together; `per_block` drops the same number in each block.
        keep_at_least: heads that every block keeps.
        gqa: policy for shared key/value heads; binds heads that have to go together.
    """

    inverse: bool = False
    scope: str = "global"
    keep_at_least: int = 0
    gqa: str = "whole_groups"

    def __post_init__(self) -> None:
        policy_named(self.gqa)
        if self.scope not in SCOPES:
            raise unknown_name("scope", self.scope, SCOPES)
        if self.keep_at_least < 0:
            raise BudgetError(f"keep_at_least is {self.keep_at_least}; give 0 or more heads a block")


def units(view: HeadModel, scores: HeadScores, mask: HeadMask, rules: Rules) -> list[Unit]:
    """List what can be dropped one after the other from `mask`, in order.

    A unit's score is the mean of its heads'. Ties go to the lower block, then the lower index.
    Heads that were not scored (NaN) are not listed. Blocks stop at `keep_at_least`.
    """
    found = [
        (float(np.mean([scores[h] for h in unit])), unit)
        for number in range(len(view.blocks))
        for unit in _bound(view, number, scores, mask, rules)
    ]
    found = [(s, unit) for s, unit in found if not np.isnan(s)]
    found.sort(key=lambda pair: -pair[0] if rules.inverse else pair[0])
    ordered = [unit for _, unit in found]
    if rules.scope == "per_block":
        ordered = _round_robin(ordered)
    return list(_keeping(ordered, mask, rules.keep_at_least))


def _bound(
    view: HeadModel, number: int, scores: HeadScores, mask: HeadMask, rules: Rules
) -> list[Unit]:
    block = view.blocks[number]
    kept = [Head(number, i) for i in block.held.heads if mask.kept[number][i]]
    if block.n_heads == block.n_kv_heads or rules.gqa == "ungroup":
        return [(h,) for h in kept]
    groups = [[h for h in kept if h.index in members] for members in members_of(block)]
    groups = [g for g in groups if g]
    if rules.gqa == "whole_groups":
        return [tuple(g) for g in groups]
    # equalise: one head of every group at a time, each group's lowest first
    ranked = [sorted(g, key=lambda h: -scores[h] if rules.inverse else scores[h]) for g in groups]
    return [tuple(heads) for heads in zip(*ranked, strict=True)]


def _round_robin(ordered: Sequence[Unit]) -> list[Unit]:
    """Take one unit of every block, then a second of every block, and so on."""
    rank: dict[int, int] = {}
    keyed = []
    for position, unit in enumerate(ordered):
        block = unit[0].block
        rank[block] = rank.get(block, -1) + 1
        keyed.append((rank[block], position, unit))
    return [unit for _, _, unit in sorted(keyed)]


def _keeping(ordered: Sequence[Unit], mask: HeadMask, at_least: int) -> Iterator[Unit]:
    left = [sum(row) for row in mask.kept]
    for unit in ordered:
        block = unit[0].block
        if left[block] - len(unit) >= at_least:
            left[block] -= len(unit)
            yield unit


def reachable(view: HeadModel, mask: HeadMask, rules: Rules, heads: int | float) -> int:
    """Turn an amount of heads into the total that will be dropped under the rules.

    A count has to be had exactly. A fraction is rounded down to what the rules allow: whole
    key/value groups, the same number in every block.

    Raises:
        BudgetError: the count cannot be had; names the nearest that can.
    """
    asked = count_heads(heads, mask.n_heads)
    equal = HeadScores(tuple(np.zeros(n) for n in mask.counts), "equal")
    totals = [len(mask.dropped)]
    whole_rounds = [totals[0]]
    blocks: set[int] = set()
    for unit in units(view, equal, mask, rules):
        if unit[0].block in blocks:
            whole_rounds.append(totals[-1])
            blocks = set()
        blocks.add(unit[0].block)
        totals.append(totals[-1] + len(unit))
    whole_rounds.append(totals[-1])
    possible = sorted(set(whole_rounds if rules.scope == "per_block" else totals))
    below = max((t for t in possible if t <= asked), default=possible[0])
    if below != asked and (isinstance(heads, int) or asked > possible[-1]):
        above = min((t for t in possible if t > asked), default=None)
        nearest = f"{below}" if above is None else f"{below} or {above}"
        raise BudgetError(
            f"{asked} of {mask.n_heads} heads cannot be dropped with scope={rules.scope!r},"
            f" gqa={rules.gqa!r}, keep_at_least={rules.keep_at_least}"
            f" ({totals[0]} are gone already); ask for {nearest}, or change the rules"
        )
    return below
