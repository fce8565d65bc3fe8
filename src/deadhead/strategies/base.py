"""What a strategy is, and what it may remove: heads, or groups that are removed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from deadhead.display import Brief
from deadhead.errors import BudgetError, check_name
from deadhead.models.heads import HeadModel
from deadhead.models.registry import Registry
from deadhead.options.settings import Clustering
from deadhead.options.values import Amount, count_heads, parse_amount
from deadhead.surgery.groups import members_of, policy_named
from deadhead.types import Head, HeadMask, HeadScores

if TYPE_CHECKING:
    from deadhead.scoring import Scorer
    from deadhead.similarity import GramFn

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


OWN = {"clusters": "clusters"} | dict.fromkeys(
    ("greedy", "one_shot", "search", "second_look"), "greedy"
)
ScoreFn = Callable[[HeadMask], HeadScores]


@dataclass(frozen=True, repr=False)
class Move(Brief):
    """What a strategy does next.

    Attributes:
        mask: the mask after the move.
        dropped: the heads that it drops.
        scores: their scores then, of each head alone, even where groups of heads were chosen.
        copies: for a dropped head the one that stands for it, where the strategy knows.
    """

    mask: HeadMask
    dropped: tuple[Head, ...]
    scores: tuple[float, ...]
    copies: Mapping[Head, Head] = field(default_factory=dict)


@dataclass(frozen=True)
class StrategyContext:
    """Everything that a strategy works with.

    Attributes:
        view: the model.
        score: scores what a mask leaves.
        rules: what may be dropped.
        origin: the mask that the run began with.
        start: the mask to continue from; differs from `origin` in a resumed run.
        limit: how many heads may be dropped in all, those that `start` drops included.
        per_step: how many heads a move drops, about.
        scorer: what else the criterion can do; None: scores are all there is.
        grams: compares heads on prompts, by scope (`per_block`, `global`); None: there are none.
        history: the masks of the run so far, in order.
    """

    view: HeadModel
    score: ScoreFn
    rules: Rules
    origin: HeadMask
    start: HeadMask
    limit: int
    per_step: int = 1
    scorer: Scorer | None = None
    grams: GramFn | None = None
    history: Sequence[HeadMask] = ()

    def units(self, scores: HeadScores, mask: HeadMask, scored: HeadMask) -> list[Unit]:
        """List what can be dropped from a mask, in order; `scored` is the mask of the scores."""
        scorer = self.scorer
        group_errors = None if scorer is None else lambda some: scorer.group_errors(scored, some)
        return units(self.view, scores, mask, self.rules, group_errors)

    def move(self, mask: HeadMask, ordered: Sequence[Unit], scores: HeadScores) -> Move | None:
        """Make the move that drops units from the front of a list, or None if none fits.

        Takes at least one unit, then more while they fit into `per_step`. A unit is skipped if the
        total could not come as near to `limit` with it as without: where units differ in size, a
        small one must not take the room that only large ones can fill.
        """
        sums = sums_from(ordered)
        room = self.limit - len(mask.dropped)
        room = max((n for n in range(room + 1) if sums[0] >> n & 1), default=0)
        dropped: tuple[Head, ...] = ()
        for unit, left in zip(ordered, sums[1:], strict=True):
            size = len(dropped) + len(unit)
            if size > room or not left >> (room - size) & 1:
                continue
            if dropped and size > self.per_step:
                break
            dropped += unit
        if not dropped:
            return None
        return Move(mask.drop(*dropped), dropped, tuple(scores[h] for h in dropped))


@dataclass(frozen=True)
class Strategy:
    """A way to choose heads: yields moves from `start` for as long as something may be dropped.

    Attributes:
        moves: yields the moves. A move drops about `per_step` heads, and all moves together never
            leave more than `limit` dropped.
        nested: its masks shrink step by step, so that a run can end at any of them.
        makes_groups: it groups heads by what they attend to, by `rules.clustering`, and says which
            head each dropped one is a copy of.
        rescores: it scores what is left again after every move.
        minimizes_error: it looks for the smallest error of the whole mask, so the order of the
            scores (`inverse`) means nothing to it.
    """

    moves: Callable[[StrategyContext], Iterator[Move]]
    nested: bool = True
    makes_groups: bool = False
    rescores: bool = False
    minimizes_error: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.moves.__doc__)

    def __call__(self, context: StrategyContext) -> Iterator[Move]:
        """Yield the moves."""
        return self.moves(context)


STRATEGIES: Registry[Strategy] = Registry(
    "strategy", {name: f"deadhead.strategies.{module}" for name, module in OWN.items()}
)


def register_strategy(
    name: str,
    *,
    nested: bool = True,
    makes_groups: bool = False,
    rescores: bool = False,
    minimizes_error: bool = False,
) -> Callable[[Callable[[StrategyContext], Iterator[Move]]], Strategy]:
    """Register a function as a strategy; the arguments are the attributes of `Strategy`."""

    def register(moves: Callable[[StrategyContext], Iterator[Move]]) -> Strategy:
        strategy = Strategy(moves, nested, makes_groups, rescores, minimizes_error)
        return STRATEGIES.register(name, strategy)

    return register


def half_of(origin: HeadMask) -> int:
    """Return how many heads are dropped when the model is measured again."""
    return len(origin.dropped) + origin.n_kept // 2
