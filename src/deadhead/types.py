"""The nouns: heads, masks, scores, plans. No transformers in here.

Heads keep their original (block, index), also after surgery.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple, get_args

import numpy as np

from deadhead.display import brief
from deadhead.display.html import head_map_html
from deadhead.errors import HeadError, ScoreError, unknown_name
from deadhead.files import as_json, json_number, refusing
from deadhead.options.values import Action, Gqa, Slope

Counts = Sequence[int]
ACTIONS: tuple[str, ...] = get_args(Action)
COPYING = ("duplicate", "fold")  # actions that look at a plan's copies
SLOPES: tuple[str, ...] = get_args(Slope)
_HEAD = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})")
_WORDS = {"action": "remove", "gqa": "whole_groups", "slope": "target", "repair": "none"}
_PLAN = (HeadError, "this is not a pruning plan", "make one with 'deadhead plan'")
_SCORES = (ScoreError, "these are not scores", "make them with 'deadhead score'")
MADE_BY = ("strategy", "criterion", "repair")


class Head(NamedTuple):
    """One attention head: the block it is in and its original index there. Prints as `3.7`."""

    block: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.index

    def __str__(self) -> str:
        return f"{self.block}.{self.index}"

    @classmethod
    def parse(cls, given: HeadLike) -> Head:
        """Return the head that a caller names: `Head(3, 7)`, `(3, 7)` or `"3.7"`.

        Raises:
            HeadError: it is none of these.
        """
        found = _HEAD.fullmatch(given) if isinstance(given, str) else None
        pair: Any = tuple(map(int, found.groups())) if found else given
        if (
            not isinstance(pair, (tuple, list))
            or len(pair) != 2
            or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in pair)
        ):
            raise HeadError(f"{given!r:.80} is not a head; write block.index, as in 3.7")
        return cls(int(pair[0]), int(pair[1]))


HeadLike = Head | tuple[int, int] | str


@dataclass(frozen=True, repr=False)
class HeadMask:
    """Which heads are kept: one bool per (block, head), True = kept.

    Blocks may differ in their number of heads. Masks are values: hashable, equal by content.
    """

    kept: tuple[tuple[bool, ...], ...]

    def __post_init__(self) -> None:
        what, advice = f"{self.kept!r:.80} is not a mask", "give a row of 0 and 1 per block"
        with refusing(HeadError, what, advice):
            rows = tuple(tuple(_truth(x) for x in row) for row in self.kept)
        object.__setattr__(self, "kept", rows)

    @classmethod
    def full(cls, counts: Counts) -> HeadMask:
        """Keep every head of blocks with `counts` heads."""
        return cls(tuple((True,) * n for n in counts))

    @classmethod
    def of(cls, rows: Iterable[Iterable[Any]]) -> HeadMask:
        """Build from anything that looks like rows of truth values."""
        return cls(rows)  # type: ignore[arg-type]

    @property
    def counts(self) -> tuple[int, ...]:
        """Original number of heads per block."""
        return tuple(len(row) for row in self.kept)

    @property
    def n_heads(self) -> int:
        """Original number of heads."""
        return sum(self.counts)

    @property
    def n_kept(self) -> int:
        """Number of heads kept."""
        return sum(map(sum, self.kept))

    @property
    def sparsity(self) -> float:
        """Fraction of heads removed, in [0, 1]."""
        return 1 - self.n_kept / self.n_heads if self.n_heads else 0.0

    @property
    def heads(self) -> tuple[Head, ...]:
        """The kept heads, by block, then index."""
        return tuple(h for h in all_heads(self.counts) if self.kept[h.block][h.index])

    @property
    def dropped(self) -> tuple[Head, ...]:
        """The removed heads, by block, then index."""
        return tuple(h for h in all_heads(self.counts) if not self.kept[h.block][h.index])

    def kept_in(self, block: int) -> tuple[int, ...]:
        """Original indices of the heads kept in one block."""
        return tuple(i for i, k in enumerate(self.kept[block]) if k)

    def keeps(self, head: HeadLike) -> bool:
        """Whether one head is kept.

        Raises:
            HeadError: the model has no such head.
        """
        head = head if isinstance(head, Head) else Head.parse(head)
        if not (0 <= head.block < len(self.kept) and 0 <= head.index < len(self.kept[head.block])):
            raise HeadError(f"there is no head {head}; the blocks have {list(self.counts)} heads")
        return self.kept[head.block][head.index]

    def drop(self, *heads: HeadLike) -> HeadMask:
        """Return a mask without `heads` as well; dropping twice changes nothing.

        Raises:
            HeadError: the model has no such head.
        """
        removed = {h for h in map(Head.parse, heads) if self.keeps(h)}
        rows = enumerate(self.kept)
        return HeadMask.of([k and (b, i) not in removed for i, k in enumerate(r)] for b, r in rows)

    def __and__(self, other: HeadMask) -> HeadMask:
        """Keep what both keep."""
        self.check_shape(other.counts)
        pairs = zip(self.kept, other.kept, strict=True)
        return HeadMask.of([a and b for a, b in zip(x, y, strict=True)] for x, y in pairs)

    def __le__(self, other: HeadMask) -> bool:
        """Whether everything kept here is kept there."""
        return self & other == self

    def check_shape(self, counts: Counts) -> None:
        """Refuse a mask that is made for another model.

        Raises:
            HeadError: the head counts per block differ.
        """
        if self.counts != tuple(counts):
            raise HeadError(
                f"the mask is for blocks of {list(self.counts)} heads, the model has"
                f" {list(counts)}; use the plan of this model"
            )

    def __repr__(self) -> str:
        return f"HeadMask({self.n_kept} of {self.n_heads} heads kept in {len(self.kept)} blocks)"

    def _repr_html_(self) -> str:
        return head_map_html(self.kept, caption=repr(self))

    def to_json(self) -> list[list[int]]:
        """Return rows of 0 and 1."""
        return [[int(k) for k in row] for row in self.kept]


def _truth(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError(f"{value!r:.40} is neither 0 nor 1")
    return bool(value)


def all_heads(counts: Counts) -> Iterator[Head]:
    """Yield every head of blocks with `counts` heads, by block, then index."""
    return (Head(b, i) for b, n in enumerate(counts) for i in range(n))


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores:
    """One float64 score per (block, head): higher = more important, NaN = not scored.

    Attributes:
        values: one array per block, shape (heads,).
        criterion: name of the criterion.
        provenance: what else made them (loss, number of samples, seed, ...), JSON values only.
    """

    values: tuple[np.ndarray, ...]
    criterion: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with refusing(*_SCORES):
            rows = tuple(np.array(row, dtype=np.float64) for row in self.values)
            if any(row.ndim != 1 for row in rows) or not isinstance(self.criterion, str):
                raise TypeError("they are a row of numbers per block, and the criterion's name")
            provenance = dict(self.provenance)
        for row in rows:
            row.setflags(write=False)
        object.__setattr__(self, "values", rows)
        object.__setattr__(self, "provenance", provenance)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadScores) and self.to_json() == other.to_json()

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of heads per block."""
        return tuple(len(row) for row in self.values)

    def __getitem__(self, head: HeadLike) -> float:
        block, index = head if isinstance(head, Head) else Head.parse(head)
        if not (0 <= block < len(self.values) and 0 <= index < len(self.values[block])):
            raise HeadError(f"there is no score of head {block}.{index}")
        return float(self.values[block][index])

    def ranking(self, mask: HeadMask | None = None, *, inverse: bool = False) -> list[Head]:
        """List the scored heads that `mask` keeps, least important first.

        Ties go to the lower block, then the lower index, in both directions. `inverse` lists
        the most important first.
        """
        heads = [h for h in all_heads(self.counts) if mask is None or mask.keeps(h)]
        heads = [h for h in heads if not np.isnan(self[h])]
        return sorted(heads, key=lambda h: -self[h] if inverse else self[h])

    def __repr__(self) -> str:
        lowest = " < ".join(f"{h}: {self[h]:.3g}" for h in self.ranking()[:3])
        criterion = brief(self.criterion, 40)
        return f"HeadScores({criterion}, {sum(self.counts)} heads, lowest {lowest or 'unknown'})"

    def _repr_html_(self) -> str:
        return head_map_html(None, [row.tolist() for row in self.values], caption=repr(self))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value; NaN becomes null, infinities become strings."""
        rows = [list(map(json_number, row)) for row in self.values]
        return {"criterion": self.criterion, "values": rows, "provenance": dict(self.provenance)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HeadScores:
        """Read what `to_json` returned.

        Raises:
            ScoreError: the data is not scores.
        """
        with refusing(*_SCORES):
            rows = [[np.nan if x is None else float(x) for x in row] for row in data["values"]]
            return cls(tuple(map(np.array, rows)), data["criterion"], data.get("provenance", {}))


@dataclass(frozen=True, repr=False)
class PruningPlan:
    """What surgery will do: pure data, to be printed, stored and compared before anything is cut.

    Attributes:
        mask: heads kept.
        copies: `{head: source}` for heads that take over another head's Q, K, V.
        action: what becomes of the removed heads: `remove`, `mask`, `duplicate` (each takes over
            the Q, K, V of its source) or `fold` (the same logits, with fewer heads).
        gqa: policy for shared key/value heads: `whole_groups`, `equalize` or `ungroup`.
        slope: whose ALiBi slope a copy has: its own (`target`) or its source's (`source`).
        repair: how the remaining heads make up for the removed ones: `none`, `bias`,
            `least_squares`, ... It is fitted on calibration data when the plan is applied.
        provenance: model, criterion, strategy, seed, data fingerprints, versions; JSON values.
    """

    mask: HeadMask
    copies: Mapping[Head, Head] = field(default_factory=dict)
    action: str = "remove"
    gqa: str = "whole_groups"
    slope: str = "target"
    repair: str = "none"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, given, known in (
            ("action", self.action, ACTIONS),
            ("gqa policy", self.gqa, get_args(Gqa)),
            ("slope", self.slope, SLOPES),
        ):
            if given not in known:
                raise unknown_name(kind, given, known)
        mask = self.mask if isinstance(self.mask, HeadMask) else HeadMask.of(self.mask)
        with refusing(*_PLAN):
            copies = {Head.parse(h): Head.parse(s) for h, s in dict(self.copies).items()}
            provenance = dict(self.provenance)
        for head in (*copies, *copies.values()):
            mask.keeps(head)  # or there is no such head
        for name, value in (("mask", mask), ("copies", copies), ("provenance", provenance)):
            object.__setattr__(self, name, value)

    def describe(self) -> str:
        """Say what will be cut, a line per block."""
        lines = [
            f"{self.action} {len(self.mask.dropped)} of {self.mask.n_heads} heads"
            f" ({self.mask.sparsity:.0%})"
        ]
        for block, row in enumerate(self.mask.kept):
            names = [self._named(Head(block, i)) for i, kept in enumerate(row) if not kept]
            what = f"heads {', '.join(names)}" if names else "nothing"
            lines.append(f"  block {block}: {what}; {sum(row)} of {len(row)} stay")
        if self.repair != "none":
            lines.append(f"  repair: {self.repair}")
        return "\n".join(lines)

    def _named(self, head: Head) -> str:
        source = self.copies.get(head) if self.action in COPYING else None
        if source is None:
            return str(head.index)
        return f"{head.index} (as {source.index if source.block == head.block else source})"

    __str__ = describe

    def __repr__(self) -> str:
        of = [f"{k} {brief(self.provenance[k], 30)}" for k in MADE_BY if k in self.provenance]
        return f"PruningPlan({', '.join([self.describe().split(chr(10))[0], *of])})"

    def _repr_html_(self) -> str:
        return head_map_html(self.mask.kept, caption=repr(self))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back to an equal plan."""
        return {
            "mask": self.mask.to_json(),
            "copies": {str(k): str(v) for k, v in self.copies.items()},
            **{name: getattr(self, name) for name in _WORDS},
            "provenance": as_json(self.provenance, "the provenance of a plan"),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruningPlan:
        """Read what `to_json` returned.

        Raises:
            HeadError: the data is not a plan.
        """
        with refusing(*_PLAN):
            action, gqa, slope, repair = (str(data.get(n, usual)) for n, usual in _WORDS.items())
            mask, copies = HeadMask.of(data["mask"]), data.get("copies", {})
            return cls(mask, copies, action, gqa, slope, repair, data.get("provenance", {}))
