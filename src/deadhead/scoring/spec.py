"""Criteria as people write them, parsed once, and the pass over a model that they share."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from deadhead.criteria.base import CRITERIA, Criterion, HasFacts, HasNotes, ScoresMasks
from deadhead.data.batches import Batch
from deadhead.errors import DataError, UnknownNameError, unknown_name
from deadhead.losses.losses import Loss
from deadhead.models.heads import HeadModel
from deadhead.models.registry import read_options
from deadhead.moments import Moments
from deadhead.scoring.own_text import OwnText
from deadhead.scoring.passes import PassResult, PassSettings, observe_all, shared_loss
from deadhead.surgery.plans import as_view
from deadhead.types import HeadMask, HeadScores


@dataclass(frozen=True, eq=False)
class CriterionPart:
    """One criterion of a spec: as it was written, the registered class, and its options."""

    text: str
    kind: Any
    options: Mapping[str, Any]

    def make(self, view: HeadModel, seed: int = 0) -> Criterion:
        """Make the criterion for a model."""
        seeded = {"seed": seed} if "seed" in inspect.signature(self.kind).parameters else {}
        return self.kind(view, **self.options, **seeded)


@dataclass(frozen=True, eq=False)
class CriterionSpec:
    """One criterion, or several joined by `+`, whose ranks are averaged.

    Example:
        >>> spec = CriterionSpec.parse("taylor+attention_entropy:normalized=true")
        >>> [part.text for part in spec.parts], spec.losses
        (['taylor', 'attention_entropy:normalized=true'], ['task'])
    """

    text: str
    parts: tuple[CriterionPart, ...]

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> CriterionSpec:
        """Read a spec. A `+` that no criterion's name follows is part of an option, as in `1e+2`.

        Raises:
            UnknownNameError: a criterion or an option is not known, or a name is empty.
        """
        if not isinstance(text, str):
            raise unknown_name("criterion", text, CRITERIA)
        pieces = text.split("+")
        parts: list[str] = []
        for piece in pieces:
            if parts and ":" in parts[-1] and piece.split(":")[0] not in CRITERIA:
                parts[-1] += f"+{piece}"
                continue
            if not piece and len(pieces) > 1:
                raise UnknownNameError(
                    f"criterion {text!r} has an empty part; join names by '+', as in"
                    " taylor+magnitude"
                )
            parts.append(piece)
        return cls(text, tuple(_part(part) for part in parts))

    @property
    def uses_data(self) -> bool:
        """Whether scoring runs the model on data."""
        return any(part.kind.needs for part in self.parts)

    @property
    def needs_trials(self) -> bool:
        """Whether a criterion evaluates many masks."""
        return any("trials" in part.kind.needs for part in self.parts)

    @property
    def scores_masks(self) -> bool:
        """Whether one pass over the dense model scores every mask."""
        return all(issubclass(part.kind, ScoresMasks) for part in self.parts)

    @property
    def losses(self) -> list[str]:
        """The losses that the criteria differentiate where the caller names none."""
        return list(dict.fromkeys(p.kind.loss for p in self.parts if p.kind.loss is not None))

    def combined(self, scores: Mapping[str, HeadScores]) -> HeadScores:
        """Return the scores of its one criterion, or the mean of the ranks of several.

        Ranks run over all scored heads, from 0 (least important) to 1; ties share the mean of their
        ranks. A head that one of the criteria did not score is not scored.
        """
        parts = [part.text for part in self.parts]
        if len(parts) == 1:
            return scores[parts[0]]
        ranks = np.mean([_ranks(scores[part]) for part in parts], axis=0)
        rows = np.split(ranks, np.cumsum(scores[parts[0]].counts)[:-1])
        return HeadScores(tuple(rows), self.text, {part: scores[part].provenance for part in parts})


class SharedPass:
    """Score what masks leave of a model by criteria that differentiate the same loss.

    Most criteria need a pass over the masked model for every mask. Those that `ScoresMasks` need
    one pass over the dense model, which is made once, when something first needs it. `moments`
    sums moments in it, whether or not a criterion needs them. Other arguments as of `score_all`.
    """

    def __init__(
        self,
        model: nn.Module | HeadModel,
        data: Iterable[Batch] | None,
        specs: Sequence[CriterionSpec],
        *,
        loss: str | Loss | None = None,
        moments: bool = False,
        settings: PassSettings | None = None,
    ):
        self.view = as_view(model)
        self.data = list(data) if isinstance(data, Iterator) else data  # used more than once
        self.specs = tuple(specs)
        self.settings = settings or PassSettings()
        self.criteria = self._made(specs)
        self.loss = shared_loss(self.criteria.values(), loss)
        self.needs_trials = any("trials" in c.needs for c in self.criteria.values())
        if self.loss is not None and self.needs_trials:
            from deadhead.scoring.trials import check_value  # most criteria need none

            check_value(self.loss)
        self._moments_loss = loss or "kl"
        summed = any(c.needs >= {"moments", "output_gradients"} for c in self.criteria.values())
        same = (self.loss or self._moments_loss) == self._moments_loss
        self.sums_moments = (moments or summed) and same
        self._result: PassResult | None = None
        self._moments: Moments | None = None

    def run(self) -> PassResult:
        """Make the pass over the dense model, unless it has been made.

        Raises:
            DataError: `strict`, and a criterion has a warning about the data.
        """
        if self._result is None:
            result = self._observed(self.criteria, moments=self.sums_moments)
            self._result = result
            notes = self.notes(self.criteria.values()) if self.settings.strict else []
            if notes:
                self._result = None
                raise DataError(f"{notes[0]}; or continue without strict")
        return self._result

    def scores(
        self, specs: Sequence[CriterionSpec], mask: HeadMask | None = None
    ) -> dict[str, HeadScores]:
        """Score the heads that a mask leaves by some of the criteria, by their text.

        Cost: one pass over the masked model for all criteria that are not `ScoresMasks`.
        """
        chosen = {part.text: self.criteria[part.text] for spec in specs for part in spec.parts}
        whole = mask is None or mask == self.view.mask
        fresh = [text for text, c in chosen.items() if not isinstance(c, ScoresMasks)]
        result = self.run() if whole or len(fresh) < len(chosen) else None
        if not whole and fresh:
            made = self._made(specs)
            chosen |= {text: made[text] for text in fresh}
            result = self._observed({text: made[text] for text in fresh}, mask=mask)
        scores: dict[str, HeadScores] = {}
        for text, criterion in chosen.items():
            if mask is not None and isinstance(criterion, ScoresMasks):
                values = criterion.scores_of(mask)
            else:
                values = criterion.scores()
            values = _without(values, _unscored(criterion, result))
            rows = in_original_order(self.view, values, mask)
            scores[text] = HeadScores(rows, text, self._provenance(criterion, result))
        return {spec.text: spec.combined(scores) for spec in specs}

    def notes(self, criteria: Iterable[Criterion]) -> list[str]:
        """Return what criteria warn of, and which stacks they did not score, a line each."""
        criteria, result = list(criteria), self.run()
        unscored = frozenset[int]().union(*(_unscored(c, result) for c in criteria))
        said = [] if not unscored else [_not_scored(self.view, unscored, result.idle)]
        return said + notes_of(criteria)

    @property
    def moments(self) -> Moments:
        """Moments of the dense model for repairs, weighted by the loss that was named, or `kl`.

        Cost: none if they were asked for and the criteria differentiate that loss; else a pass.
        """
        if self._moments is None:
            measured = self.run() if self.sums_moments else self._observed({}, moments=True)
            if measured.moments is None:
                raise DataError("there are no moments without calibration samples; give some")
            self._moments = replace(measured.moments, own=self.own_text.moments)
        return self._moments

    @cached_property
    def own_text(self) -> OwnText:
        """What the model writes itself, or the texts joined: see `OwnText`."""
        return OwnText(self.view, self.data or (), self.settings)

    def _made(self, specs: Iterable[CriterionSpec]) -> dict[str, Criterion]:
        """Make criteria that have seen no data yet, by their text."""
        parts = {part.text: part for spec in specs for part in spec.parts}
        return {text: part.make(self.view, self.settings.seed) for text, part in parts.items()}

    def _observed(
        self,
        criteria: Mapping[str, Criterion],
        *,
        mask: HeadMask | None = None,
        moments: bool = False,
    ) -> PassResult:
        return observe_all(
            self.view,
            self.data,
            list(criteria.values()),
            mask=mask,
            loss=self.loss if criteria else self._moments_loss,
            moments=moments,
            settings=self.settings,
        )

    def _provenance(self, criterion: Criterion, result: PassResult | None) -> dict[str, Any]:
        provenance: dict[str, Any] = {"seed": self.settings.seed}
        if criterion.needs and result is not None:
            provenance["samples"] = result.samples
        if criterion.loss is not None and self.loss is not None:
            name = getattr(self.loss, "__name__", type(self.loss).__name__)
            provenance["loss"] = self.loss if isinstance(self.loss, str) else name
        return provenance | (dict(criterion.facts) if isinstance(criterion, HasFacts) else {})


def _unscored(criterion: Criterion, result: PassResult | None) -> frozenset[int]:
    """Return the blocks that a criterion saw nothing of: their scores of zero mean nothing."""
    if result is None or not criterion.needs:
        return frozenset()
    return result.idle if criterion.loss is None else result.detached


def _without(values: Sequence[np.ndarray], blocks: frozenset[int]) -> list[np.ndarray]:
    return [np.full(len(v), np.nan) if n in blocks else v for n, v in enumerate(values)]


def _not_scored(view: HeadModel, blocks: frozenset[int], idle: frozenset[int]) -> str:
    heads = sum(view.blocks[n].n_heads for n in blocks)
    names = ", ".join(sorted({view.blocks[n].record.stack for n in blocks}))
    why = "no batch runs them" if blocks <= idle else "the loss does not depend on them"
    return (
        f"{heads} heads of {names} are not scored and kept whole, as {why}; give batches that use"
        " them to score them too"
    )


def notes_of(criteria: Iterable[Criterion]) -> list[str]:
    """Return what criteria warn of, a line each."""
    return [note for c in criteria if isinstance(c, HasNotes) for note in c.notes]


def in_original_order(
    view: HeadModel, values: Sequence[np.ndarray], mask: HeadMask | None
) -> tuple[np.ndarray, ...]:
    """Return one row per block with a value per original head; NaN where there is none."""
    rows = []
    for number, (block, there) in enumerate(zip(view.blocks, values, strict=True)):
        row = np.full(block.original.n_heads, np.nan)
        row[list(block.original.heads)] = there
        if mask is not None:
            row[~np.array(mask.kept[number], dtype=bool)] = np.nan
        rows.append(row)
    return tuple(rows)


def make_criterion(text: str, view: HeadModel, *, seed: int = 0) -> Any:
    """Make one criterion from `name` or `name:option=value:option=value`."""
    return _part(text).make(view, seed)


def _part(text: str) -> CriterionPart:
    name, *pairs = text.split(":")
    kind = CRITERIA[name]
    parameters = inspect.signature(kind).parameters
    known = {p: parameters[p].default for p in parameters if p not in ("view", "seed")}
    return CriterionPart(text, kind, read_options("criterion", name, pairs, known))


def _ranks(scores: HeadScores) -> np.ndarray:
    from scipy.stats import rankdata  # slow to import

    flat = np.concatenate(scores.values)
    ranks = rankdata(flat, nan_policy="omit")
    return (ranks - 1) / max(1, np.count_nonzero(~np.isnan(flat)) - 1)
