"""Scoring: criteria on any mask of a model, in as few passes as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from torch import Tensor, nn

from deadhead.criteria.base import CanRescore, HasErrors, HasGains, HasGroupErrors
from deadhead.data.batches import Batch
from deadhead.errors import ScoreError
from deadhead.losses.losses import Loss
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments
from deadhead.options.fields import check_arguments
from deadhead.options.values import CriterionName
from deadhead.options.values import Loss as LossName
from deadhead.scoring.own_text import OwnText
from deadhead.scoring.passes import PassSettings
from deadhead.scoring.spec import CriterionSpec, SharedPass, in_original_order
from deadhead.surgery.plans import PlanLike, as_mask, as_view
from deadhead.types import Head, HeadMask, HeadScores

MASKS_PER_PASS = 8  # whose errors a criterion that needs trials computes together
Ability = TypeVar("Ability")


@check_arguments
def score(
    model: nn.Module | HeadModel,
    data: Any,
    criterion: CriterionName | str,
    *,
    tokenizer: Any = None,
    mask: PlanLike | None = None,
    loss: LossName | Loss | None = None,
    seed: int = 0,
) -> HeadScores:
    """Score the heads of a model by one criterion; see `score_all`.

    Example:
        >>> import deadhead
        >>> loaded = deadhead.load_model("bundled:encoder")
        >>> texts = ["a good film", "a bad film"]
        >>> scores = score(loaded.model, texts, "output_norm", tokenizer=loaded.tokenizer)
        >>> len(scores.ranking())
        24
    """
    given = {"tokenizer": tokenizer, "mask": mask, "loss": loss, "seed": seed}
    return score_all(model, data, [criterion], **given)[criterion]


@check_arguments
def score_all(
    model: nn.Module | HeadModel,
    data: Any,
    criteria: Sequence[CriterionName | str],
    *,
    tokenizer: Any = None,
    mask: PlanLike | None = None,
    loss: LossName | Loss | None = None,
    seed: int = 0,
    on_batch: Callable[[], None] | None = None,
) -> dict[str, HeadScores]:
    """Score the heads of a model by several criteria that share their passes.

    All gradient criteria of one call differentiate the same loss: `loss` if it is named; else
    `task` if any of them is defined on it (taylor), else `kl`, else `logit_norm`.

    Args:
        model: the model; comes back exactly as it was.
        data: texts, a data set, batches or a task: see `data.given.as_batches`; all of it is used.
            None if no criterion uses data.
        criteria: names, with options: `gradient_norm`, `attention_entropy:normalized=true`; or
            several joined by `+`, whose ranks are averaged: `taylor+magnitude`.
        tokenizer: the model's; batches and tasks need none.
        mask: a mask, or a list of heads to drop: `[(3, 7), "4.0"]`; these heads are masked while
            scoring, and their scores are NaN.
        loss: a name, or a callable `(model, outputs, batch) -> (batch,)`.
        seed: for criteria that draw.
        on_batch: called after every batch, for progress.

    Shape: one `HeadScores` per criterion, in original head indices; NaN for removed heads.
    Cost: one forward pass per batch, and one backward pass if there are gradient criteria (one
    more for each other `reduction`).

    Raises:
        UnknownNameError: a criterion, option or loss that is not known.
        DataError: there is no data, or it lacks labels.
        ScoreError: something is not finite; names head and batch.
    """
    specs = [CriterionSpec.parse(criterion) for criterion in criteria]
    view = as_view(model)
    if data is not None and any(spec.uses_data for spec in specs):
        from deadhead.data.given import as_batches  # loads readers of every kind of data

        data = as_batches(data, view.model, tokenizer, size=None)
    settings = PassSettings(seed=seed, on_batch=on_batch)
    shared = SharedPass(view, data, specs, loss=loss, settings=settings)
    return shared.scores(specs, None if mask is None else as_mask(view, mask))


class Scorer:
    """Score what masks leave of a model by one criterion, always on the same data.

    Where a method depends on what the criterion can do (see the protocols in `criteria.base`), it
    returns None if the criterion cannot, as one that combines several ranks cannot.

    Args:
        model: the model; comes back exactly as it was.
        data: calibration batches; None if the criterion uses no data.
        criterion: a name with options, as of `score_all`; None: for `moments` alone.
        loss: as of `score_all`.
        moments: sum moments in the dense pass, whether or not the criterion needs them.
        settings: see `PassSettings`.
        shared: a pass that this scorer shares with others, instead of one of its own; the other
            arguments are then those of the pass.
    """

    def __init__(
        self,
        model: nn.Module | HeadModel,
        data: Iterable[Batch] | None,
        criterion: CriterionName | str | CriterionSpec | None,
        *,
        loss: str | Loss | None = None,
        moments: bool = False,
        settings: PassSettings | None = None,
        shared: SharedPass | None = None,
    ):
        self.spec = CriterionSpec.parse(criterion) if isinstance(criterion, str) else criterion
        specs = [] if self.spec is None else [self.spec]
        self.shared = shared or SharedPass(
            model, data, specs, loss=loss, moments=moments, settings=settings
        )
        self.view, self.loss = self.shared.view, self.shared.loss
        self._criteria = [self.shared.criteria[part.text] for spec in specs for part in spec.parts]
        self._rescored: dict[HeadMask, Scorer] = {}

    def __call__(self, mask: HeadMask | None = None) -> HeadScores:
        """Score the heads that a mask leaves.

        Cost: a pass over the masked model; of a criterion that `ScoresMasks`, one pass in all.
        """
        if self.spec is None:
            raise ScoreError("no criterion was named, so there are no scores; name one")
        return self.shared.scores([self.spec], mask)[self.spec.text]

    def run_pass(self) -> float:
        """Make the pass over the dense model, unless it has been made; return its seconds.

        The full duration, even if other criteria share the pass; 0 if the criterion uses no data.
        """
        return self.shared.run().seconds if any(c.needs for c in self._criteria) else 0.0

    @property
    def notes(self) -> list[str]:
        """What the criterion warns of in the data, a line each. Cost: the dense pass."""
        return self.shared.notes(self._criteria)

    @property
    def moments(self) -> Moments:
        """Moments of the dense model for repairs; see `SharedPass.moments`."""
        return self.shared.moments

    @property
    def masks_per_pass(self) -> int:
        """How many masks to give to `errors` at once: more than 1 if they share a pass."""
        return MASKS_PER_PASS if any("trials" in c.needs for c in self._criteria) else 1

    def gains(self, mask: HeadMask) -> HeadScores | None:
        """Return what taking back each dropped head would save; NaN for the heads kept."""
        criterion = self._able(HasGains)
        if criterion is None or self.spec is None:
            return None
        return HeadScores(
            in_original_order(self.view, criterion.gains_of(mask), None), self.spec.text
        )

    def error(self, mask: HeadMask) -> float | None:
        """Return the criterion's error of a whole mask."""
        errors = self.errors([mask])
        return None if errors is None else errors[0]

    def errors(self, masks: Sequence[HeadMask]) -> list[float] | None:
        """Return the criterion's errors of whole masks.

        Cost: algebra; of `ablation`, a forward pass and part of one per mask.
        """
        criterion = self._able(HasErrors)
        return None if criterion is None else criterion.errors_of(masks)

    def group_errors(self, mask: HeadMask, units: Sequence[Sequence[Head]]) -> list[float] | None:
        """Return the criterion's error of dropping each of some groups of heads from a mask."""
        criterion = self._able(HasGroupErrors)
        return None if criterion is None else criterion.group_errors_of(mask, units)

    @property
    def can_rescore(self) -> bool:
        """Whether `rescore` works: a single criterion that needs only one pass."""
        return len(self._criteria) == 1 and isinstance(self._criteria[0], CanRescore)

    def rescore(self, mask: HeadMask, weights: Mapping[int, Tensor]) -> Scorer:
        """Make a pass over the model as it is at this moment, and return a scorer of what it saw.

        `mask` says how the model is masked; the pass is made once for each. `weights` are, by
        block, the output projections that differ from the dense model's.

        Raises:
            ScoreError: the criterion cannot.
        """
        if mask not in self._rescored:
            moments, settings = self.shared.sums_moments, self.shared.settings
            data, loss = self.shared.data, self.loss
            scorer = Scorer(
                self.view, data, self.spec, loss=loss, moments=moments, settings=settings
            )
            criterion = scorer._criteria[0] if scorer.can_rescore else None
            if not isinstance(criterion, CanRescore):
                raise ScoreError(f"criterion {self.spec} cannot rescore a changed model")
            criterion.rescore_with(mask, weights)
            scorer.shared.run()
            self._rescored[mask] = scorer
        return self._rescored[mask]

    def _able(self, ability: type[Ability]) -> Ability | None:
        """Return the criterion, which has seen the data, if it is a single one that can do this."""
        (criterion, *others) = self._criteria or [None]
        if others or not isinstance(criterion, ability):
            return None
        self.shared.run()
        return criterion


class ScorerGroup:
    """Scorers of several criteria that share the passes over the dense model.

    Criteria with the same loss share a pass; those without a loss join the first. Criteria that
    need trials (`ablation`, `shapley`) have their own. Unlike in `score_all`, each criterion keeps
    its own default loss, unless one is named. Nothing is run until a criterion is used. `moments`
    says whether moments will be asked for: then the pass of `kl` sums them too.
    """

    def __init__(
        self,
        model: nn.Module | HeadModel,
        data: Iterable[Batch],
        criteria: Sequence[str],
        *,
        loss: str | Loss | None = None,
        moments: bool = False,
        settings: PassSettings | None = None,
    ):
        self.view = as_view(model)
        self._loss, self._settings = loss, settings
        self._batches = list(data)
        self._specs = {text: CriterionSpec.parse(text) for text in dict.fromkeys(criteria)}
        self._passes = {
            (loss, trials): self._pass(specs, loss, moments=moments and not trials)
            for (loss, trials), specs in self._by_loss().items()
        }
        self._scorers: dict[str, Scorer] = {}

    def of(self, criterion: str) -> Scorer:
        """Return the scorer of one criterion."""
        if criterion not in self._scorers:
            spec = self._specs[criterion]
            shared = next(p for p in self._passes.values() if spec in p.specs)
            self._scorers[criterion] = Scorer(self.view, self._batches, spec, shared=shared)
        return self._scorers[criterion]

    @property
    def moments(self) -> Moments:
        """Moments of the dense model; tokens are weighted by the loss that was named, or `kl`."""
        return self._measured.moments

    @property
    def own_text(self) -> OwnText:
        """The second stream of text, which `moments.own` are of."""
        return self._measured.own_text

    @cached_property
    def _measured(self) -> SharedPass:
        """The pass that sums moments."""
        return self._passes.get((self._loss or "kl", False)) or self._pass([], self._loss)

    def _by_loss(self) -> dict[tuple[str | Loss | None, bool], list[CriterionSpec]]:
        """Group the criteria by their loss, and whether they need trials."""
        groups: dict[tuple[str | Loss | None, bool], list[CriterionSpec]] = {}
        for spec in self._specs.values():
            alone = self._pass([spec], self._loss)
            groups.setdefault((alone.loss, alone.needs_trials), []).append(spec)
        lossless = groups.pop((None, False), [])
        if lossless:
            first = next((key for key in groups if not key[1]), (None, False))
            groups.setdefault(first, []).extend(lossless)
        return groups

    def _pass(
        self, specs: Sequence[CriterionSpec], loss: str | Loss | None, *, moments: bool = False
    ) -> SharedPass:
        wanted = moments and loss in ("kl", self._loss)
        return SharedPass(
            self.view, self._batches, specs, loss=loss, moments=wanted, settings=self._settings
        )
