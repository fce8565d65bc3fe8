"""Diagnosis of scores: gradients per block and projection, and where values are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deadhead.criteria.gradient_norm import weight_gradient_norms
from deadhead.data.batches import Batch, call, ready, valid_tokens
from deadhead.display import Brief
from deadhead.errors import DataError
from deadhead.losses.answers import logits_of
from deadhead.losses.losses import Loss, loss_named
from deadhead.models.architectures import PARTS
from deadhead.models.heads import HeadModel
from deadhead.models.observation import Observation
from deadhead.scoring.passes import Backward, run_batch
from deadhead.surgery.plans import as_view


def where_not_finite(view: HeadModel, batch: Batch) -> str | None:
    """Name the first block and head whose output is not finite, or the logits; None if all are.

    Looks at real tokens only, in one forward pass. If every head of the block is affected, what
    came into the block is.
    """
    found: list[str] = []
    valid = valid_tokens(batch)

    def look(number: int, z: Tensor) -> None:
        seen = z[valid] if z.shape[:2] == valid.shape else z.flatten(0, 1)
        finite = torch.isfinite(seen).all(-1).all(0).tolist()  # (heads there now,)
        if found or all(finite):
            return
        held = view.blocks[number].original.heads
        heads = [f"{number}.{i}" for i, sound in zip(held, finite, strict=True) if not sound]
        named = f"head {', '.join(heads)}" if any(finite) or len(held) == 1 else "all of them"
        found.append(f"block {number}: head outputs are not finite ({named})")

    with torch.no_grad(), view.hook_heads(look):
        logits = logits_of(call(view.model, batch))
    if not found and not torch.isfinite(logits).all():
        found.append("after the last block: logits are not finite")
    return found[0] if found else None


@dataclass(frozen=True)
class GradientRow:
    """Norms of the gradients on the heads' weights in one projection of one block.

    `smallest`, `median` and `largest` are over heads, of the mean over samples; `zero` counts the
    heads whose gradient is exactly zero.
    """

    block: int
    projection: str
    smallest: float
    median: float
    largest: float
    zero: int


@dataclass(frozen=True, repr=False)
class Diagnosis(Brief):
    """The numbers behind the scores, and what is wrong with them.

    Attributes:
        dtype: of the model's weights.
        loss: that was differentiated.
        samples: how many there were.
        rows: gradient magnitudes.
        not_finite: one line for each place where something was NaN or infinite.
        underflow: by dtype, heads whose product of three gradient norms it cannot hold.
        advice: what to do, most urgent first; never empty.
    """

    dtype: str
    loss: str
    samples: int
    rows: tuple[GradientRow, ...]
    not_finite: tuple[str, ...]
    underflow: dict[str, int]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value."""
        return asdict(self)


class _Recorder:
    """Collects gradient norms, also where some are not finite."""

    needs = frozenset({"projections"})

    def __init__(self, view: HeadModel):
        self.view = view
        self.samples = 0
        self.totals = [
            {part: torch.zeros(b.shape.count(part), dtype=torch.float64) for part in PARTS}
            for b in view.blocks
        ]
        self.not_finite: list[str] = []

    def observe(self, seen: Observation) -> None:
        self.samples += seen.samples
        for number, projected in enumerate(seen.projected):
            if projected is None:
                continue
            for part, norms in weight_gradient_norms(projected).items():
                finite = torch.isfinite(norms)
                if not finite.all():
                    self.not_finite.append(
                        f"batch {seen.batch}, block {number}, {part}: gradient is not finite"
                    )
                total = torch.where(finite, norms, torch.zeros_like(norms)).sum(0)
                self.totals[number][part] += total.cpu().double()

    def means(self, number: int, part: str) -> np.ndarray:
        return (self.totals[number][part] / max(1, self.samples)).numpy()


def diagnose(
    model: nn.Module | HeadModel,
    data: Iterable[Batch],
    *,
    loss: str | Loss | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> Diagnosis:
    """Measure activations, logits and gradients, block by block; `on_batch` is for progress.

    Cost: two forward passes and one backward pass per batch.
    """
    view = as_view(model)
    chosen = loss_named(loss or "logit_norm")
    recorder = _Recorder(view)
    seen = 0
    with view.at_rest():
        for number, batch in enumerate(ready(view.model, data)):
            seen += 1
            on_batch()
            trouble = where_not_finite(view, batch)
            if trouble:
                recorder.not_finite.append(f"batch {number}, {trouble}")
                continue
            backward = Backward(chosen, "sample", (recorder,))
            run_batch(view, batch, number, backwards=(backward,))
    if not seen:
        raise DataError("there are no calibration samples; give at least one batch")
    return _conclude(view, recorder, getattr(chosen, "__name__", "loss"))


def _conclude(view: HeadModel, recorder: _Recorder, loss: str) -> Diagnosis:
    rows, products = [], [np.array([])]
    for number, block in enumerate(view.blocks):
        if not block.n_heads or not recorder.samples:
            continue
        means = {part: recorder.means(number, part) for part in PARTS}
        for part, values in means.items():
            low, middle, high = (float(f(values)) for f in (np.min, np.median, np.max))
            zero = int((values == 0).sum())
            rows.append(GradientRow(number, part, low, middle, high, zero))
        with np.errstate(divide="ignore"):
            shared = np.log(means["key"]) + np.log(means["value"])
            products.append(np.log(means["query"]) + np.repeat(shared, block.shape.group_size))
    logs = np.concatenate(products)
    underflow = {}
    for name in ("float16", "bfloat16", "float32"):
        smallest = np.log(torch.finfo(getattr(torch, name)).tiny)
        underflow[name] = int((np.isfinite(logs) & (logs < smallest)).sum())
    dtype = str(next(view.model.parameters()).dtype).removeprefix("torch.")
    not_finite = tuple(recorder.not_finite)
    advice = _advice(dtype, rows, not_finite, underflow)
    return Diagnosis(dtype, loss, recorder.samples, tuple(rows), not_finite, underflow, advice)


def _advice(
    dtype: str, rows: list[GradientRow], not_finite: tuple[str, ...], underflow: dict[str, int]
) -> tuple[str, ...]:
    advice = []
    if not_finite:
        half = " (float16 overflows at 65504; bfloat16 does not)" if dtype == "float16" else ""
        advice.append(
            f"{len(not_finite)} places are not finite: compute with --dtype float32{half}, and"
            " check the weights of the first block named"
        )
    zero = sum(row.zero for row in rows)
    if zero:
        where = ", ".join(map(str, sorted({row.block for row in rows if row.zero})))
        hint = "; compute with --dtype float32" if dtype in ("float16", "bfloat16") else ""
        advice.append(
            f"{zero} gradients are exactly zero (blocks {where}): these heads score -inf and are"
            f" removed first; they are dead, or underflow{hint}"
        )
    if any(underflow.values()):
        counts = ", ".join(f"{n} in {d}" for d, n in underflow.items() if n)
        advice.append(
            f"the product of the three norms would underflow ({counts}); gradient_norm ranks by"
            " the sum of logs in float64, so its ranking is right"
        )
    medians = [[r.median for r in rows if r.projection == p and r.median > 0] for p in PARTS]
    spread = max(max(of) / min(of) if of else 1.0 for of in medians)
    if spread > 1e3:
        advice.append(
            f"median gradients differ {spread:.0e}-fold between blocks: one ranking over all"
            " blocks takes most heads from the small ones; compare with --scope per_block"
        )
    return tuple(advice) or ("nothing is wrong: all finite, no zero gradient, no underflow",)
