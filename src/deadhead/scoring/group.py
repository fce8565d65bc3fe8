"""Many criteria on the same data, each by its own loss, in as few passes as losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import nn

from deadhead.data.inputs import Batch
from deadhead.losses.losses import Loss
from deadhead.models.heads import HeadModel
from deadhead.moments import Moments
from deadhead.scoring.scorer import Scorer


class Scorers:
    """Scorers of several criteria that share the passes over the dense model.

    Criteria of the same loss share a pass, as those without a loss do with the first. Those that
    try out masks (`ablation`, `shapley`) have their own. Unlike `score_all`, nobody's loss is
    changed by the company he is in.

    Args:
        model, data, criteria, loss, seed, on_batch: as of `score_all`.
        strict: as of `Scorer`.
        moments: whether moments will be asked for: then the pass of `kl` sums them too.

    Cost: nothing until a criterion is asked for; then its group's pass.
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
        self.view = model if isinstance(model, HeadModel) else HeadModel(model)
        self._batches = list(data)
        self._how = {"seed": seed, "strict": strict, "on_batch": on_batch}
        groups: dict[tuple[str | Loss | None, bool], list[str]] = {}
        for spec in dict.fromkeys(criteria):
            alone = Scorer(self.view, self._batches, [spec], loss=loss, seed=seed)
            groups.setdefault((alone.loss, alone.tries), []).append(spec)
        lossless = groups.pop((None, False), [])
        if lossless:
            looking = (key for key in groups if not key[1])
            groups.setdefault(next(looking, (None, False)), []).extend(lossless)
        self._groups = {
            key: Scorer(
                self.view,
                self._batches,
                specs,
                loss=key[0],
                moments=moments and key[0] in ("kl", loss) and not key[1],
                **self._how,
            )
            for key, specs in groups.items()
        }
        self._alone: dict[str, Scorer] = {}
        self._moments: Moments | None = None
        self._loss = loss

    def of(self, criterion: str) -> Scorer:
        """Return the scorer of one criterion."""
        if criterion not in self._alone:
            group = next(g for g in self._groups.values() if criterion in g.criteria)
            self._alone[criterion] = group.only(criterion)
        return self._alone[criterion]

    @property
    def moments(self) -> Moments:
        """Moments of the dense model; tokens are weighted by the loss that was named, or `kl`."""
        if self._moments is None:
            shared = self._groups.get((self._loss or "kl", False))
            alone = Scorer(self.view, self._batches, [], loss=self._loss, **self._how)
            self._moments = (shared or alone).moments
        return self._moments
