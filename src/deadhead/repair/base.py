"""What a repair is: new output projections for a plan, from moments of the dense model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from deadhead.data.inputs import Batch
from deadhead.errors import unknown_name
from deadhead.models.heads import HeadModel
from deadhead.moments import BlockMoments
from deadhead.options.choices import Repair as RepairName
from deadhead.types import PruningPlan


@dataclass(frozen=True, eq=False)
class Fit:
    """A block's new output projection, in the positions of its weights now; float64.

    Attributes:
        weight: (hidden, width), zero in the columns of heads that go.
        bias: (hidden,).
        facts: what was chosen and measured on the way (ridge, errors, calibration tokens and
            unknowns per output feature); JSON values.
    """

    weight: Tensor
    bias: Tensor
    facts: Mapping[str, Any] = field(default_factory=dict)


Fits = Mapping[int, Fit]


@dataclass(frozen=True, eq=False)
class BlockFit:
    """One block to repair.

    Attributes:
        dense: weight before, (hidden, width).
        cut: weight after surgery alone: zero where heads go, folded where they fold.
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


Repair = Callable[[BlockFit], Fit]
DataRepair = Callable[[HeadModel, PruningPlan, Sequence[Batch]], dict[int, Fit]]

_REGISTRY: dict[str, Repair] = {}
_WITH_DATA: dict[str, DataRepair] = {}  # moments of the dense model are not enough for these
BEGINS_WITH: dict[str, RepairName] = {
    "distill": "least_squares"
}  # repairs that train what another has fitted


def register_repair(name: str) -> Callable[[Repair], Repair]:
    """Register a function from a `BlockFit` to a `Fit` as a repair."""

    def register(repair: Repair) -> Repair:
        _REGISTRY[name] = repair
        return repair

    return register


def register_data_repair(name: str) -> Callable[[DataRepair], DataRepair]:
    """Register a function from a model, a plan and batches to fits as a repair."""

    def register(repair: DataRepair) -> DataRepair:
        _WITH_DATA[name] = repair
        return repair

    return register


def repair_named(name: str) -> Repair:
    """Look up a repair that moments are enough for.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in _REGISTRY:
        raise unknown_name("repair", name, repair_names())
    return _REGISTRY[name]


def data_repair_named(name: str) -> DataRepair | None:
    """Look up a repair that runs the data itself; None if that is no such one."""
    return _WITH_DATA.get(name)


def repair_names() -> list[str]:
    """List the repairs that are known, `none` first."""
    return ["none", *sorted([*_REGISTRY, *_WITH_DATA, *BEGINS_WITH])]
