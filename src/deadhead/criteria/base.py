"""What a criterion is, and the registry that holds them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from deadhead.errors import ScoreError, UnknownNameError, unknown_name
from deadhead.models.heads import HeadModel
from deadhead.types import HeadMask


class Criterion(Protocol):
    """A way to score heads.

    `needs` names what it looks at: nothing (weights only), `gates`, `projections`,
    `output_gradients`, `heads`, `maps`, `moments` or `trials`.
    `loss` is the loss it differentiates if the caller names none (None: no gradient).
    `scores()` returns one float64 array per block, for the heads there now.
    """

    needs: frozenset[str]
    loss: str | None

    def scores(self) -> list[np.ndarray]:
        """Return the scores of the heads there now."""
        ...


C = TypeVar("C", bound=type)
_REGISTRY: dict[str, Callable[..., Any]] = {}


def register_criterion(name: str, *, needs: Sequence[str] = (), loss: str | None = None) -> Any:
    """Register a class as a criterion.

    The class is made with `(view, seed=..., **options)`, or fewer of these, and has `scores()`. By
    what it needs it is shown, of each batch:

    - `gates`, `projections`, `output_gradients`: `observe(Observation)`;
    - `heads`: `observe_heads(block, z, valid, batch)`, z (samples, tokens, heads, head_dim);
    - `maps`: `observe_maps(block, rows, maps, visible, valid)`.

    One with `moments` finds the whole pass's in its attribute `moments` afterwards. One with
    `trials` is called once, `observe_trials(Trials)`, and asks for the losses of whatever masks it
    wants. What a criterion leaves in an attribute `facts` (JSON values) joins the provenance; lines
    in `notes` are for the user, and with `strict` an error.
    """

    def register(cls: C) -> C:
        cls.name, cls.needs, cls.loss = name, frozenset(needs), loss
        _REGISTRY[name] = cls
        return cls

    return register


def criterion_names() -> list[str]:
    """List the criteria that are known."""
    return sorted(_REGISTRY)


def criterion_class(name: str) -> Any:
    """Look up a criterion's class.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in _REGISTRY:
        raise unknown_name("criterion", name, _REGISTRY)
    return _REGISTRY[name]


def make_criterion(spec: str, view: HeadModel, *, seed: int = 0) -> Any:
    """Make a criterion from `name` or `name:option=value:option=value`.

    Raises:
        UnknownNameError: there is no such criterion, or it has no such option.
    """
    name, *pairs = spec.split(":")
    cls = criterion_class(name)
    parameters = inspect.signature(cls).parameters
    known = {p: parameters[p].default for p in parameters if p not in ("view", "seed")}
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        last = next(reversed(options), None)
        if last is not None and known[last] == "" and not (equals and key in known):
            options[last] += f":{pair}"  # paths and names of tables may hold colons
            continue
        if key not in known or not equals:
            raise (
                unknown_name(f"option of {name}", key, known)
                if known
                else UnknownNameError(f"criterion {name!r} has no options, got {pair!r}")
            )
        options[key] = _option(name, key, value, known[key])
    if "seed" in parameters:
        options["seed"] = seed
    return cls(view, **options)


def _option(criterion: str, key: str, text: str, default: Any) -> Any:
    """Read an option's value as the type of its default."""
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError) as error:
        allowed = "true or false" if kind is bool else f"a number, as in {default}"
        raise UnknownNameError(
            f"option {key}={text!r} of {criterion} cannot be read; write {allowed}"
        ) from error


@dataclass
class SampleMean:
    """Mean over samples of a number per head, in float64; refuses what is not finite."""

    view: HeadModel
    criterion: str
    total: list[Tensor] = field(init=False)
    count: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.total = [torch.zeros(b.n_heads, dtype=torch.float64) for b in self.view.blocks]
        self.count = [0] * len(self.view.blocks)

    def add(self, block: int, values: Tensor, batch: int) -> None:
        """Add one row per sample; shape (samples, heads there now).

        Raises:
            ScoreError: a value is not finite; names the head and the batch.
        """
        row = values.detach().cpu().sum(0, dtype=torch.float64)  # some devices lack float64
        if not torch.isfinite(row).all():
            at = int(torch.nonzero(~torch.isfinite(row))[0])
            head = f"{block}.{self.view.blocks[block].held.heads[at]}"
            raise ScoreError(
                f"{self.criterion} of head {head} is {float(row[at])} in batch {batch};"
                " look with 'deadhead score --diagnose', or compute with --dtype float32"
            )
        self.total[block] += row
        self.count[block] += len(values)

    def value(self) -> list[np.ndarray]:
        """Return the means, one array per block.

        Raises:
            ScoreError: nothing was seen of a block that has heads.
        """
        for number, (block, n) in enumerate(zip(self.view.blocks, self.count, strict=True)):
            if block.n_heads and not n:
                raise ScoreError(
                    f"{self.criterion} saw nothing to count in block {number}; give longer samples"
                    " (a single token has no choice of what to attend to)"
                )
        return [(t / max(1, n)).numpy() for t, n in zip(self.total, self.count, strict=True)]


class MaskLosses(Protocol):
    """Mean calibration losses under masks; see `scoring.trials.Trials`."""

    mask: HeadMask
    samples: int

    def losses(self, masks: Sequence[HeadMask], *, share: float = 1.0) -> np.ndarray:
        """Return the mean loss under each mask."""
        ...
