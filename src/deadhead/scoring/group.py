"""Many criteria on the same data, each by its own loss, in as few passes as losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from deadhead.data.inputs import Batch
from deadhead.losses.losses import Loss
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments
from deadhead.scoring.observe import PassSettings
from deadhead.scoring.scorer import Scorer
from deadhead.scoring.shared import SharedPass
from deadhead.scoring.spec import CriterionSpec
from deadhead.surgery.plans import as_view


class ScorerGroup:
    """Scorers of several criteria that share the passes over the dense model.

    Criteria with the same loss share a pass; those without a loss join the first. Criteria that
    need trials (`ablation`, `shapley`) have their own. Unlike in `score_all`, each criterion keeps
    its own default loss.

    Args:
        model: the model; comes back exactly as it was.
        data: calibration batches.
        criteria: names with options, as of `score_all`.
        loss: for all criteria; None: each its own.
        seed: for criteria that draw.
        moments: whether moments will be asked for: then the pass of `kl` sums them too.
        strict: raise what the criteria would warn of.
        on_batch: called after every batch, for progress.

    Cost: nothing until a criterion is used; then the pass of its group.
    """

    def __init__(
        self,
        model: nn.Module | HeadModel,
        data: Iterable[Batch],
        criteria: Sequence[str],
        *,
        loss: str | Loss | None = None,
        seed: int = 0,
        moments: bool = False,
        strict: bool = False,
        on_batch: Callable[[], None] | None = None,
    ):
        self.view = as_view(model)
        self._loss = loss
        self._settings = PassSettings(seed=seed, strict=strict, on_batch=on_batch)
        self._batches = list(data)
        self._specs = {text: CriterionSpec.parse(text) for text in dict.fromkeys(criteria)}
        self._passes = {
            (loss, trials): self._pass(specs, loss, moments=moments and not trials)
            for (loss, trials), specs in self._by_loss().items()
        }
        self._scorers: dict[str, Scorer] = {}
        self._moments: Moments | None = None

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
        if self._moments is None:
            shared = self._passes.get((self._loss or "kl", False))
            self._moments = (shared or self._pass([], self._loss)).moments
        return self._moments

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
