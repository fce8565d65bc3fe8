"""What may be removed: heads, or groups that are removed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from deadhead.errors import BudgetError, check_name
from deadhead.models.heads import HeadModel
from deadhead.options.settings import Clustering
from deadhead.options.values import Amount, count_heads, parse_amount
from deadhead.surgery.groups import members_of, policy_named
from deadhead.types import Head, HeadMask, HeadScores

if TYPE_CHECKING:
    pass

Unit = tuple[Head, ...]
GroupErrorsFn = Callable[[Sequence[Unit]], Sequence[float] | None]
SCOPES = ("global", "per_block")


@dataclass(frozen=True)
class Rules:
    """What a strategy may drop.

    Attributes:
        inverse: drop the most important heads first.
        scope: `global` ranks all heads together; `per_block` drops the same number in each block
            (one less in some, if a budget or a stopping rule ends a run inside a round).
        keep_at_least: heads that every block keeps.
        gqa: policy for shared key/value heads; says which heads are removed together.
        clustering: how the strategy `clusters` groups heads.
        sites: names of the stacks that lose heads, with commas; empty: all.
    """

    inverse: bool = False
    scope: str = "global"
    keep_at_least: int = 0
    gqa: str = "whole_groups"
    clustering: Clustering = field(default_factory=Clustering)
    sites: str = ""

    def __post_init__(self) -> None:
        policy_named(self.gqa)
        check_name("scope", self.scope, SCOPES)
        if self.keep_at_least < 0:
            raise BudgetError(
                f"keep_at_least is {self.keep_at_least}; give 0 or more heads a block"
            )

    def blocks(self, view: HeadModel) -> list[int]:
        """Return the numbers of the blocks that may lose heads.

        Raises:
            BudgetError: the model has no stack of a name in `sites`.
        """
        stacks = [block.record.stack for block in view.blocks]
        wanted = [name.strip() for name in self.sites.split(",") if name.strip()]
        unknown = [name for name in wanted if name not in stacks]
        if unknown:
            names = ", ".join(name for name in dict.fromkeys(stacks) if name)
            raise BudgetError(
                f"this model has no sites {unknown[0]!r:.60};"
                f" it has {names or 'one stack only, so leave sites out'}"
            )
        return [n for n, stack in enumerate(stacks) if not wanted or stack in wanted]


def units(
    view: HeadModel,
    scores: HeadScores,
    mask: HeadMask,
    rules: Rules,
    group_errors: GroupErrorsFn | None = None,
) -> list[Unit]:
    """List what can be dropped one after the other from `mask`, in order.

    A unit's score is the mean of its heads' scores; where `group_errors` knows what its heads cost
    together, it is that cost per head. Ties go to the lower block, then the lower index. Heads
    without a score (NaN) are not listed. Every block keeps `keep_at_least` heads.
    """
    costs = {
        unit: float(np.mean([scores[h] for h in unit]))
        for number in rules.blocks(view)
        for unit in _bound(view, number, scores, mask, rules)
    }
    costs = {unit: cost for unit, cost in costs.items() if not np.isnan(cost)}
    several = [unit for unit in costs if len(unit) > 1]
    together = group_errors(several) if group_errors is not None and several else None
    if together is not None:
        costs |= {unit: cost / len(unit) for unit, cost in zip(several, together, strict=True)}
    sign = -1 if rules.inverse else 1
    ordered = sorted(costs, key=lambda unit: sign * costs[unit])
    if rules.scope == "per_block":
        rows = zip(view.mask.kept, mask.kept, strict=True)
        ordered = _round_robin(ordered, [sum(before) - sum(now) for before, now in rows])
    least = [max(rules.keep_at_least, b.record.headless == "refused") for b in view.blocks]
    return list(_keeping(ordered, mask, least))


def removable(view: HeadModel, mask: HeadMask, rules: Rules) -> list[Unit]:
    """List what can be dropped from `mask` where all heads score the same."""
    equal = HeadScores(tuple(np.zeros(n) for n in mask.counts), "equal")
    return units(view, equal, mask, rules)


def _bound(
    view: HeadModel, number: int, scores: HeadScores, mask: HeadMask, rules: Rules
) -> list[Unit]:
    block = view.blocks[number]
    kept = [Head(number, i) for i in block.original.heads if mask.kept[number][i]]
    if block.n_heads == block.n_kv_heads or rules.gqa == "ungroup":
        return [(h,) for h in kept]
    groups = [[h for h in kept if h.index in members] for members in members_of(block)]
    groups = [g for g in groups if g]
    if rules.gqa == "whole_groups":
        return [tuple(g) for g in groups]
    # equalize: one head of every group at a time, each group's lowest first
    ranked = [sorted(g, key=lambda h: -scores[h] if rules.inverse else scores[h]) for g in groups]
    return [tuple(heads) for heads in zip(*ranked, strict=True)]


def _round_robin(ordered: Sequence[Unit], lost: Sequence[int]) -> list[Unit]:
    """Take one unit of every block, then a second; `lost` heads before finish a started round."""
    taken = list(lost)
    keyed = []
    for position, unit in enumerate(ordered):
        block = unit[0].block
        keyed.append((taken[block] // len(unit), position, unit))
        taken[block] += len(unit)
    return [unit for _, _, unit in sorted(keyed)]


def _keeping(ordered: Sequence[Unit], mask: HeadMask, least: Sequence[int]) -> Iterator[Unit]:
    left = [sum(row) for row in mask.kept]
    for unit in ordered:
        if left[unit[0].block] - len(unit) >= least[unit[0].block]:
            left[unit[0].block] -= len(unit)
            yield unit


def reachable(view: HeadModel, mask: HeadMask, rules: Rules, heads: Amount) -> int:
    """Turn an amount of heads into the total that will be dropped under the rules.

    Heads that `mask` drops already count. A fraction is rounded down to what the rules allow: whole
    key/value groups, the same number in every block. A count that they do not allow is refused.
    """
    heads = parse_amount(heads)
    asked = count_heads(heads, _total(view, mask, rules))
    possible = _possible(view, mask, rules)
    below = max((t for t in possible if t <= asked), default=possible[0])
    if below != asked and isinstance(heads, int):
        raise BudgetError(_cannot(asked, possible, mask, rules))
    return below


def droppable(view: HeadModel, mask: HeadMask, rules: Rules, heads: Amount) -> int:
    """Do as `reachable`, and refuse an amount that drops no more heads than `mask` does."""
    total = reachable(view, mask, rules, heads)
    if total <= len(mask.dropped):
        possible = _possible(view, mask, rules)
        asked = count_heads(heads, _total(view, mask, rules))
        raise BudgetError(_cannot(asked, possible, mask, rules))
    return total


def _total(view: HeadModel, mask: HeadMask, rules: Rules) -> int:
    """Return how many heads there are in the blocks that may lose some."""
    return sum(mask.counts[number] for number in rules.blocks(view))


def shortfall(view: HeadModel, mask: HeadMask, rules: Rules, heads: Amount) -> str | None:
    """Warn that the rules allow far fewer heads than a fraction; None if they do not.

    1.0 means as many as the rules allow; less than a unit in every block is rounding.
    """
    heads = parse_amount(heads)
    if isinstance(heads, int) or heads >= 1:
        return None
    asked = count_heads(heads, _total(view, mask, rules))
    had = reachable(view, mask, rules, heads)
    largest = max((len(unit) for unit in removable(view, view.mask, rules)), default=1)
    blocks = len(view.blocks) if rules.scope == "per_block" else 1
    if asked - had < largest * blocks:
        return None
    return (
        f"{heads:.0%} of the heads are {asked}; scope={rules.scope!r}, gqa={rules.gqa!r},"
        f" keep_at_least={rules.keep_at_least} allow {had} of {mask.n_heads} to be removed"
    )


def _possible(view: HeadModel, mask: HeadMask, rules: Rules) -> list[int]:
    """List the totals that can be dropped for any scores; the first is what `mask` drops."""
    total, ordered = len(mask.dropped), removable(view, mask, rules)
    if rules.scope == "global":
        sums = sums_from(ordered)[0]
        return [total + n for n in range(mask.n_kept + 1) if sums >> n & 1]
    whole_rounds = {total}
    blocks: set[int] = set()
    for unit in ordered:
        if unit[0].block in blocks:
            whole_rounds.add(total)
            blocks = set()
        blocks.add(unit[0].block)
        total += len(unit)
    return sorted({*whole_rounds, total})


def sums_from(ordered: Sequence[Unit]) -> list[int]:
    """Find which numbers of heads the units from each position on add up to.

    One number per position, and one for the end: its bit n is set if some units have n heads.
    """
    sums = [1]  # no heads, from no units
    for unit in reversed(ordered):
        sums.append(sums[-1] | sums[-1] << len(unit))
    return sums[::-1]


def _cannot(asked: int, possible: Sequence[int], mask: HeadMask, rules: Rules) -> str:
    now, *more = possible
    below = max((t for t in more if t <= asked), default=None)
    above = min((t for t in more if t > asked), default=None)
    names = " or ".join(str(total) for total in (below, above) if total is not None)
    return (
        f"{asked} of {mask.n_heads} heads cannot be removed with scope={rules.scope!r},"
        f" gqa={rules.gqa!r}, keep_at_least={rules.keep_at_least}"
        + (f" ({now} are removed already, and count)" if now else "")
        + (f"; ask for {names}, or" if names else "; no head can be removed:")
        + " change the rules"
    )
