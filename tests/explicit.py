"""The slow, obvious way: one sample at a time without padding, a refit for every question."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from deadhead import HeadModel
from deadhead.moments import Moments
from deadhead.scoring.passes import observe_all
from deadhead.scoring.spec import make_criterion


def each_alone(inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Every sample as a batch of its own, without padding (which is on the right)."""
    lengths = inputs["attention_mask"].sum(1).tolist()
    return [
        {k: v[at : at + 1, :n] if v.dim() == 2 else v[at : at + 1] for k, v in inputs.items()}
        for at, n in enumerate(lengths)
    ]


def in_batches(inputs: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    """Split a batch into smaller ones, padding as it is."""
    starts = range(0, len(inputs["input_ids"]), size)
    return [{k: v[s : s + size] for k, v in inputs.items()} for s in starts]


def seen_alone(
    model: nn.Module, inputs: dict[str, torch.Tensor], loss: Callable[[Any, Any], torch.Tensor]
) -> list[list[tuple[int, np.ndarray, np.ndarray]]]:
    """What passes each block's output projection, one sample at a time.

    `loss` is called with the outputs and the batch of one. Per block a list with an entry for each
    application: (sample, what enters (tokens, width), gradient at what leaves (tokens, hidden)).
    """
    view = HeadModel(model)
    found: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in view.blocks]
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    handles = []
    for number, block in enumerate(view.blocks):
        keep = lambda m, a, o, number=number: seen.append((number, a[0], o))  # noqa: E731
        handles.append(block.output.register_forward_hook(keep))
    for at, row in enumerate(each_alone(inputs)):
        seen.clear()
        outputs = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"])
        left = [o for *_, o in seen]
        gradients = torch.autograd.grad(loss(outputs, row).sum(), left)
        for (number, x, _), g in zip(seen, gradients, strict=True):
            found[number].append((at, x[0].detach().numpy(), g[0].numpy()))
    for handle in handles:
        handle.remove()
    return found


def class_loss(outputs: Any, row: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of a classifier."""
    return torch.nn.functional.cross_entropy(outputs.logits, row["labels"])


def refit(covariance: np.ndarray, weight: np.ndarray, kept: list[int]) -> np.ndarray:
    """The weight on `kept` features that is nearest to `weight` on data of this covariance.

    By least squares on a square root of the covariance, which has to be of full rank.
    """
    root = np.linalg.cholesky(covariance)  # |(W - W') root|^2 is the error
    fitted = np.zeros_like(weight)
    fitted[:, kept] = np.linalg.lstsq(root[kept].T, (weight @ root).T, rcond=None)[0].T
    return fitted


def refit_error(
    covariance: np.ndarray,
    weight: np.ndarray,
    metric: np.ndarray | None,
    head_dim: int,
    gone: list[int],
) -> float:
    """The error that is left when the heads that are not gone are refitted."""
    if not gone:
        return 0.0
    kept = [f for f in range(len(covariance)) if f // head_dim not in gone]
    change = weight - refit(covariance, weight, kept)
    squared = change @ covariance @ change.T
    return float(np.trace(squared if metric is None else metric @ squared))


def plain_moments(model: nn.Module | HeadModel, batches: list[dict[str, torch.Tensor]]) -> Moments:
    """Moments that weigh every token alike, from a forward pass without gradients."""
    view = model if isinstance(model, HeadModel) else HeadModel(model)
    seen = observe_all(view, batches, [make_criterion("reconstruction:weight=none", view)])
    assert seen.moments is not None
    return seen.moments
