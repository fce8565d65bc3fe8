"""What a criterion is and may be able to do, and the registry that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from deadhead.errors import ScoreError, not_finite
from deadhead.models.registry import Registry
from deadhead.options.values import CriterionName
from deadhead.types import Head, HeadMask

if TYPE_CHECKING:
    from deadhead.models.heads import HeadModel
    from deadhead.moments import Moments

Need = Literal[
    "gates", "projections", "output_gradients", "heads", "maps", "moments", "trials"
]  # fmt: skip


class Observer(Protocol):
    """What a pass over the data is shown to.

    Attributes:
        name: for messages.
        needs: what it looks at; nothing: the weights only.
        loss: the loss that it differentiates if the caller names none; None: no gradient.
    """

    name: str
    needs: frozenset[str]
    loss: str | None


class Criterion(Observer, Protocol):
    """A way to score heads. What else it can do is one of the protocols below."""

    def scores(self) -> list[np.ndarray]:
        """Return one float64 array per block, for the heads there now; higher = more important."""
        ...


class ObservesHeads(Observer, Protocol):
    """Needs `heads`."""

    def observe_heads(self, block: int, z: Tensor, valid: Tensor, batch: int) -> None:
        """Add one application of a block; `z` is (samples, tokens, heads, head_dim)."""
        ...


class ObservesMaps(Observer, Protocol):
    """Needs `maps`."""

    def observe_maps(
        self,
        block: int,
        rows: slice,
        maps: Tensor,
        visible: Tensor | None,
        valid: Tensor,
        batch: int,
    ) -> None:
        """Add the attention maps of some samples; `valid` is (samples of the batch, tokens)."""
        ...


class MaskLosses(Protocol):
    """Mean calibration losses under masks; see `scoring.trials.Trials`."""

    mask: HeadMask
    samples: int

    def losses(self, masks: Sequence[HeadMask], *, share: float = 1.0) -> np.ndarray:
        """Return the mean loss under each mask; `share` is of the progress bar."""
        ...


class ObservesTrials(Observer, Protocol):
    """Needs `trials`."""

    def observe_trials(self, trials: MaskLosses) -> None:
        """Compute the loss under whatever masks the scores are made from. Called once."""
        ...


@runtime_checkable
class UsesMoments(Protocol):
    """Needs `moments`: those of the whole pass are put here after it."""

    moments: Moments | None


@runtime_checkable
class SumsOverBatch(Protocol):
    """Chooses how the loss is summed before it is differentiated: `sample` or `batch`."""

    reduction: str


@runtime_checkable
class ScoresMasks(Protocol):
    """Knows the scores under every mask from one pass over the dense model."""

    def scores_of(self, mask: HeadMask) -> list[np.ndarray]:
        """Return the scores of the heads that a mask leaves; NaN for the others."""
        ...


@runtime_checkable
class HasGains(Protocol):
    """Knows what taking back a removed head would save."""

    def gains_of(self, mask: HeadMask) -> list[np.ndarray]:
        """Return the savings for each head that a mask drops; NaN for the others."""
        ...


@runtime_checkable
class HasErrors(Protocol):
    """Knows the error of a whole mask."""

    def errors_of(self, masks: Sequence[HeadMask]) -> list[float]:
        """Return the error of each mask; lower is better."""
        ...


@runtime_checkable
class HasGroupErrors(Protocol):
    """Knows the error of dropping several heads of a block together."""

    def group_errors_of(self, mask: HeadMask, units: Sequence[Sequence[Head]]) -> list[float]:
        """Return the error of dropping each group of heads from a mask."""
        ...


@runtime_checkable
class CanRescore(Protocol):
    """Can use a pass over a masked and repaired model instead of the dense one."""

    def rescore_with(self, mask: HeadMask, weights: Mapping[int, Tensor]) -> None:
        """Say, before the pass, how the model is masked and which output projections differ."""
        ...


@runtime_checkable
class HasNotes(Protocol):
    """Has warnings about the data for the user, a line each."""

    @property
    def notes(self) -> Sequence[str]: ...  # noqa: D102


@runtime_checkable
class HasFacts(Protocol):
    """Has JSON values for the provenance of its scores."""

    @property
    def facts(self) -> Mapping[str, Any]: ...  # noqa: D102


C = TypeVar("C", bound=Callable[..., Any])
CRITERIA: Registry[Any] = Registry(
    "criterion", {name: f"deadhead.criteria.{name}" for name in get_args(CriterionName)}
)


def register_criterion(
    name: str, *, needs: Sequence[Need] = (), loss: str | None = None, in_all: bool = True
) -> Callable[[C], C]:
    """Register a class as a criterion.

    The class is made with `(view, seed=..., **options)`, or fewer of these, and has `scores()`. It
    is shown every batch, by what it needs: `observe(Observation)` for gradients, else see
    `ObservesHeads`, `ObservesMaps`, `ObservesTrials` and `UsesMoments`. The other protocols of this
    module are what it may be able to do besides.

    Args:
        name: for the command line and for `score`.
        needs: what it looks at.
        loss: the loss that it differentiates if the caller names none.
        in_all: whether it is meant by "all criteria"; not so for scores from a file, random scores,
            and what takes thousands of passes.
    """

    def register(cls: Any) -> Any:
        cls.name, cls.needs, cls.loss, cls.in_all = name, frozenset(needs), loss, in_all
        return CRITERIA.register(name, cls)

    return register


class SampleMean:
    """Mean over samples of a number per head, in float64; refuses what is not finite."""

    def __init__(self, view: HeadModel, criterion: str):
        self.view, self.criterion = view, criterion
        self.total = [torch.zeros(b.n_heads, dtype=torch.float64) for b in view.blocks]
        self.count = [0] * len(view.blocks)

    def add(self, block: int, values: Tensor, batch: int) -> None:
        """Add one row per sample; shape (samples, heads there now).

        Raises:
            ScoreError: a value is not finite; names the head and the batch.
        """
        row = values.detach().cpu().sum(0, dtype=torch.float64)  # some devices lack float64
        if not torch.isfinite(row).all():
            at = int(torch.nonzero(~torch.isfinite(row))[0])
            head = f"{block}.{self.view.blocks[block].original.heads[at]}"
            raise not_finite(
                f"{self.criterion} of head {head} is {float(row[at])} in batch {batch}"
            )
        self.total[block] += row
        self.count[block] += len(values)

    def value(self) -> list[np.ndarray]:
        """Return the means, one array per block; NaN for a stack that no sample ran.

        Raises:
            ScoreError: no sample counted for a block that has heads.
        """
        ran = {b.record.stack for b, n in zip(self.view.blocks, self.count, strict=True) if n}
        for number, (block, n) in enumerate(zip(self.view.blocks, self.count, strict=True)):
            if block.n_heads and not n and not (ran and block.record.stack not in ran):
                raise ScoreError(
                    f"{self.criterion} saw nothing to count in block {number}; give longer samples"
                    " (a single token has no choice of what to attend to)"
                )
        means = zip(self.total, self.count, strict=True)
        return [(t / n if n else torch.full_like(t, torch.nan)).numpy() for t, n in means]


def by_head(view: HeadModel, values: Mapping[Head, float]) -> list[np.ndarray]:
    """Return scores of some heads as one array per block, for the heads there now; others NaN."""
    rows = [np.full(block.n_heads, np.nan) for block in view.blocks]
    for head, value in values.items():
        rows[head.block][view.blocks[head.block].position(head.index)] = value
    return rows


class MeanCriterion:
    """A criterion whose scores are means over samples: a subclass adds them to `mean`."""

    name: str

    def __init__(self, view: HeadModel):
        self.mean = SampleMean(view, self.name)

    def add_queries(self, block: int, values: Tensor, counted: Tensor, batch: int) -> None:
        """Add (samples, heads, query) values: a sample's is the mean over its counted queries."""
        queries = counted.sum(1)
        mean = values.masked_fill(~counted[:, None], 0).sum(-1) / queries.clamp(min=1)[:, None]
        self.mean.add(block, mean[queries > 0], batch)

    def scores(self) -> list[np.ndarray]:
        """Return the means."""
        return self.mean.value()


def keys_seen(valid: Tensor, visible: Tensor | None) -> Tensor:
    """Return how many keys each query can see; (samples or 1, query)."""
    return valid.sum(1)[:, None].expand_as(valid) if visible is None else visible[:, 0].sum(-1)
