"""What a repair is, what it is given of a block and what it makes of it, and the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from deadhead.data.batches import Batch
from deadhead.display import Brief
from deadhead.errors import BudgetError
from deadhead.models.heads import HeadModel
from deadhead.models.registry import Registry, read_options
from deadhead.moments import BlockMoments
from deadhead.options.values import DEFAULT_REPAIR
from deadhead.types import PruningPlan


@dataclass(frozen=True, eq=False, repr=False)
class Fit(Brief):
    """A block's new output projection, in the positions of its weights now; float64.

    Attributes:
        weight: (hidden, width), zero in the columns of removed heads.
        bias: (hidden,); None: stays as it is, also if the projection has none.
        facts: what was chosen and measured on the way (ridge, errors, calibration tokens and
            unknowns per output feature); JSON values.
    """

    weight: Tensor
    bias: Tensor | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Fit:
        """Return the fit in the numbers that it will be written in."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return Fit(self.weight.to(dtype), bias, self.facts)


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
        own: moments of a second stream, of text that the model makes itself; None: there is none,
            or the repair does not ask for it.
    """

    dense: Tensor
    cut: Tensor
    bias: Tensor
    kept: Tensor
    moments: BlockMoments
    inputs: int | None = None
    own: BlockMoments | None = None

    @property
    def tokens(self) -> int:
        """Number of calibration tokens."""
        return round(sum(self.moments.tokens))

    @property
    def scarce(self) -> bool:
        """Whether there are fewer calibration tokens than unknowns per output feature."""
        return self.tokens < len(self.kept)


FitBlock = Callable[..., Fit]  # of a BlockFit, and of options
FitPlan = Callable[["HeadModel", PruningPlan, Sequence["Batch"]], dict[int, Fit]]


@dataclass(frozen=True)
class Repair:
    """How the remaining heads make up for the removed ones.

    Attributes:
        fit_block: fits one block from moments of the dense model; None if moments are not enough.
            Its parameters with a default are options: `least_squares:bias=false`.
        fit_plan: fits all blocks from the calibration data; None if moments are enough.
        begins_with: the repair whose fits the cut model is then trained from; None: no training.
        own: share of the weight that text of the model's own making has, which `BlockFit.own` is
            of; the option `own` of `fit_block`.
    """

    fit_block: FitBlock | None = None
    fit_plan: FitPlan | None = None
    begins_with: str | None = None
    own: float = 0.0

    @property
    def needs_moments(self) -> bool:
        """Whether it is fitted from moments of the dense model."""
        return self.fit_block is not None or self.begins_with is not None

    def with_options(self, name: str, pairs: Sequence[str]) -> Repair:
        """Return the repair with options, as typed behind its name."""
        parameters = [] if self.fit_block is None else signature(self.fit_block).parameters.values()
        known = {p.name: p.default for p in parameters if p.default is not p.empty}
        options = read_options("repair", name, pairs, known)
        own = options.get("own", self.own)
        if not 0 <= own < 1:
            raise BudgetError(f"repair {name!r}: own={own:g} is no share in [0, 1); give 0.25")
        if not options or self.fit_block is None:
            return self
        return replace(self, fit_block=partial(self.fit_block, **options), own=own)


class Repairs(Registry[Repair]):
    """The registry of repairs; a name may have options behind it: `least_squares:own=0.1`."""

    def __getitem__(self, text: str) -> Repair:
        """Look up a repair, with its options."""
        name, *pairs = text.split(":")
        return super().__getitem__(name).with_options(name, pairs)


REPAIRS = Repairs(
    "repair",
    {
        "bias": "deadhead.repair.least_squares",
        "least_squares": "deadhead.repair.least_squares",
        "least_squares_sequential": "deadhead.repair.least_squares",
    },
)


def register_repair(name: str) -> Callable[[FitBlock], FitBlock]:
    """Register a function from a `BlockFit` to a `Fit` as a repair.

    Parameters with a default are options, typed behind its name. One named `own` is the share of
    the weight that `BlockFit.own` has: moments of text of the model's own making, which are then
    measured.
    """

    def register(fit_block: FitBlock) -> FitBlock:
        known = signature(fit_block).parameters
        own = known["own"].default if "own" in known else 0.0
        _register(name, Repair(fit_block=fit_block, own=own), fit_block.__doc__)
        return fit_block

    return register


def register_data_repair(name: str) -> Callable[[FitPlan], FitPlan]:
    """Register a function from a model, a plan and batches to fits as a repair."""

    def register(fit_plan: FitPlan) -> FitPlan:
        _register(name, Repair(fit_plan=fit_plan), fit_plan.__doc__)
        return fit_plan

    return register


def _register(name: str, repair: Repair, said: str | None) -> None:
    object.__setattr__(repair, "__doc__", said)  # what `Registry.described` reads
    REPAIRS.register(name, repair)


_register("none", Repair(), "Nothing is refitted.")
_register(
    "distill",
    Repair(begins_with=DEFAULT_REPAIR),
    f"`{DEFAULT_REPAIR}`, then training of the cut model against the dense one.",
)


def repair_names() -> list[str]:
    """List the repairs that are known, `none` first."""
    return ["none", *(name for name in REPAIRS if name != "none")]


def without_training(plan: PruningPlan) -> PruningPlan:
    """Return a plan with the part of its repair that is fitted: what `distill` begins with."""
    begins_with = REPAIRS[plan.repair].begins_with
    return plan if begins_with is None else replace(plan, repair=begins_with)


def own_share(repair: str) -> float:
    """Return the share of a repair's weight that text of the model's own making has."""
    begins_with = REPAIRS[repair].begins_with
    return REPAIRS[begins_with or repair].own
