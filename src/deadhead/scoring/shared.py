"""Several criteria of one loss, which share a pass over the dense model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from deadhead.criteria.base import Criterion, HasFacts, HasNotes, ScoresMasks
from deadhead.data.inputs import Batch
from deadhead.errors import DataError
from deadhead.losses.losses import Loss
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments
from deadhead.scoring.observe import PassResult, PassSettings, observe_all, shared_loss
from deadhead.scoring.passes import check_value
from deadhead.scoring.spec import CriterionPart, CriterionSpec
from deadhead.surgery.plans import as_view
from deadhead.types import HeadMask, HeadScores


class SharedPass:
    """Score what masks leave of a model by several criteria that differentiate the same loss.

    Most criteria need a pass over the masked model for every mask. Those that `ScoresMasks` need
    one pass over the dense model. That pass is made once, when something first needs it.

    Args:
        model: the model; comes back exactly as it was.
        data: calibration batches; None if no criterion uses data.
        specs: the criteria.
        loss: as of `score_all`.
        moments: sum moments in the dense pass, whether or not a criterion needs them.
        settings: see `PassSettings`.
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
        self.parts = {part.text: part for spec in specs for part in spec.parts}
        self.criteria = self.make(self.parts.values())
        self.loss = shared_loss(self.criteria.values(), loss)
        self.needs_trials = any("trials" in c.needs for c in self.criteria.values())
        if self.loss is not None and self.needs_trials:
            check_value(self.loss)
        self._moments_loss = loss or "kl"
        summed = any(c.needs >= {"moments", "output_gradients"} for c in self.criteria.values())
        same = (self.loss or self._moments_loss) == self._moments_loss
        self.sums_moments = (moments or summed) and same
        self._result: PassResult | None = None
        self._moments: Moments | None = None

    def make(self, parts: Iterable[CriterionPart]) -> dict[str, Criterion]:
        """Make criteria that have seen no data yet, by their text."""
        return {part.text: part.make(self.view, self.settings.seed) for part in parts}

    def run(self) -> PassResult:
        """Make the pass over the dense model, unless it has been made.

        Raises:
            DataError: `strict`, and a criterion has a warning about the data.
        """
        if self._result is None:
            result = observe_all(
                self.view,
                self.data,
                list(self.criteria.values()),
                loss=self.loss,
                moments=self.sums_moments,
                settings=self.settings,
            )
            notes = notes_of(self.criteria.values()) if self.settings.strict else []
            if notes:
                raise DataError(f"{notes[0]}; or continue without strict")
            self._result = result
        return self._result

    def scores(
        self, specs: Sequence[CriterionSpec], mask: HeadMask | None = None
    ) -> dict[str, HeadScores]:
        """Score the heads that a mask leaves by some of the criteria, by their text.

        Cost: one pass over the masked model for all criteria that are not `ScoresMasks`.
        """
        parts = {part.text: part for spec in specs for part in spec.parts}
        chosen = {text: self.criteria[text] for text in parts}
        whole = mask is None or mask == self.view.mask
        fresh = [t for t, c in chosen.items() if not isinstance(c, ScoresMasks)]
        result = self.run() if whole or len(fresh) < len(chosen) else None
        if not whole and fresh:
            made = self.make([parts[text] for text in fresh])
            result = observe_all(
                self.view,
                self.data,
                list(made.values()),
                mask=mask,
                loss=self.loss,
                settings=self.settings,
            )
            chosen |= made
        scores: dict[str, HeadScores] = {}
        for text, criterion in chosen.items():
            if mask is not None and isinstance(criterion, ScoresMasks):
                values = criterion.scores_of(mask)
            else:
                values = criterion.scores()
            rows = in_original_order(self.view, values, mask)
            scores[text] = HeadScores(rows, text, self._provenance(criterion, result))
        return {spec.text: spec.combined(scores) for spec in specs}

    @property
    def moments(self) -> Moments:
        """Moments of the dense model for repairs, weighted by the loss that was named, or `kl`.

        Cost: none if they were asked for and the criteria differentiate that loss; else a pass.
        """
        if self._moments is None:
            moments = self.run().moments if self.sums_moments else None
            self._moments = moments or self._measured_moments()
        return self._moments

    def _measured_moments(self) -> Moments:
        loss, settings = self._moments_loss, self.settings
        result = observe_all(self.view, self.data, [], moments=True, loss=loss, settings=settings)
        if result.moments is None:
            raise DataError("there are no moments without calibration samples; give some")
        return result.moments

    def _provenance(self, criterion: Criterion, result: PassResult | None) -> dict[str, Any]:
        provenance: dict[str, Any] = {"seed": self.settings.seed}
        if criterion.needs and result is not None:
            provenance["samples"] = result.samples
        if criterion.loss is not None and self.loss is not None:
            provenance["loss"] = _name(self.loss)
        return provenance | (dict(criterion.facts) if isinstance(criterion, HasFacts) else {})


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


def _name(loss: str | Loss) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
