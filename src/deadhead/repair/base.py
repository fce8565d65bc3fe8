"""What a repair is: new output projections for a plan, from moments of the dense model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deadhead.display import Brief
from deadhead.models.registry import Registry
from deadhead.types import PruningPlan

if TYPE_CHECKING:
    from deadhead.data.inputs import Batch
    from deadhead.models.heads import HeadModel
    from deadhead.moments import BlockMoments


@dataclass(frozen=True, eq=False, repr=False)
class Fit(Brief):
    """A block's new output projection, in the positions of its weights now; float64.

    Attributes:
        weight: (hidden, width), zero in the columns of removed heads.
        bias: (hidden,).
        facts: what was chosen and measured on the way (ridge, errors, calibration tokens and
            unknowns per output feature); JSON values.
    """

    weight: Tensor
    bias: Tensor
    facts: Mapping[str, Any] = field(default_factory=dict)


Fits = Mapping[int, Fit]


@dataclass(frozen=True, eq=False, repr=False)
class BlockFit(Brief):
    """One block to repair.

    Attributes:
        dense: weight before, (hidden, width).
        cut: weight after surgery alone: zero where heads are removed, folded where they fold.
        bias: bias before; zeros where the projection has none.
        kept: features that stay, ascending.
        moments: of what enters the projection of the dense block.
        inputs: how many features enter the projection. None: all that the moments are of.
    """

    dense: Tensor
    cut: Tensor
    bias: Tensor
    kept: Tensor
    moments: BlockMoments
    inputs: int | None = None

    @property
    def tokens(self) -> int:
        """Number of calibration tokens."""
        return round(sum(self.moments.tokens))

    @property
    def scarce(self) -> bool:
        """Whether there are fewer calibration tokens than unknowns per output feature."""
        return self.tokens < len(self.kept)


FitBlock = Callable[[BlockFit], Fit]
FitPlan = Callable[["HeadModel", PruningPlan, Sequence["Batch"]], dict[int, Fit]]


@dataclass(frozen=True)
class Repair:
    """How the remaining heads make up for the removed ones.

    Attributes:
        fit_block: fits one block from moments of the dense model; None if moments are not enough.
        fit_plan: fits all blocks from the calibration data; None if moments are enough.
        begins_with: the repair whose fits the cut model is then trained from; None: no training.
    """

    fit_block: FitBlock | None = None
    fit_plan: FitPlan | None = None
    begins_with: str | None = None

    @property
    def needs_moments(self) -> bool:
        """Whether it is fitted from moments of the dense model."""
        return self.fit_block is not None or self.begins_with is not None


REPAIRS = Registry[Repair](
    "repair",
    {
        "bias": "deadhead.repair.bias",
        "least_squares": "deadhead.repair.least_squares",
        "least_squares_sequential": "deadhead.repair.sequential",
    },
)


def register_repair(name: str) -> Callable[[FitBlock], FitBlock]:
    """Register a function from a `BlockFit` to a `Fit` as a repair."""

    def register(fit_block: FitBlock) -> FitBlock:
        _described(name, Repair(fit_block=fit_block), fit_block.__doc__)
        return fit_block

    return register


def register_data_repair(name: str) -> Callable[[FitPlan], FitPlan]:
    """Register a function from a model, a plan and batches to fits as a repair."""

    def register(fit_plan: FitPlan) -> FitPlan:
        _described(name, Repair(fit_plan=fit_plan), fit_plan.__doc__)
        return fit_plan

    return register


def _described(name: str, repair: Repair, said: str | None) -> None:
    object.__setattr__(repair, "__doc__", said)  # what `Registry.described` reads
    REPAIRS.register(name, repair)


_described("none", Repair(), "Nothing is refitted.")
_described(
    "distill",
    Repair(begins_with="least_squares"),
    "`least_squares`, then training of the cut model against the dense one.",
)


def repair_names() -> list[str]:
    """List the repairs that are known, `none` first."""
    return ["none", *(name for name in REPAIRS if name != "none")]


def without_training(plan: PruningPlan) -> PruningPlan:
    """Return a plan with the part of its repair that is fitted: `least_squares` of `distill`."""
    begins_with = REPAIRS[plan.repair].begins_with
    return plan if begins_with is None else replace(plan, repair=begins_with)
