"""How far a cut model is from the dense one on a batch: logits, and attention blocks' outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deadhead.data.batches import Batch, call, to_device, valid_tokens
from deadhead.errors import HeadError
from deadhead.losses.answers import answers_of, has_head, widened
from deadhead.models.heads import HeadModel
from deadhead.options.settings import Distillation

Outputs = dict[int, list[Tensor]]


def output_paths(view: HeadModel) -> list[str]:
    """Return the dotted path of every block's output projection; it outlives adapters."""
    return [f"{block.name}.{block.record.output}" for block in view.blocks]


@contextmanager
def recorded(model: nn.Module, paths: Sequence[str]) -> Iterator[Outputs]:
    """Record what some modules return, a list per number: shared blocks are called repeatedly."""
    found: Outputs = {number: [] for number in range(len(paths))}
    with ExitStack() as stack:
        for number, path in enumerate(paths):
            keep = found[number].append
            hook = model.get_submodule(path).register_forward_hook(lambda m, a, out, k=keep: k(out))
            stack.callback(hook.remove)
        yield found


@dataclass
class Distance:
    """The loss of a cut model: its distance from the dense one. Labels are not looked at.

    `logits_weight * divergence + outputs_weight * error`. The divergence is KL(dense || cut) of
    the softmax at a temperature, times its square; of one logit, half the squared error; of a model
    without a head, the relative error of its last hidden state. The error is the mean over blocks
    of the squared error of the output projection's output over the variance of the dense one's.
    Padding does not count; nor do blocks that skip their output projection as they have no heads.

    Cost: one forward pass of each model.
    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), eq. 2 to 4 with soft targets only; block
    outputs as in FitNets (arXiv 1412.6550), without a regressor, as the widths agree.
    """

    student: nn.Module
    dense: nn.Module
    student_paths: Sequence[str]
    dense_paths: Sequence[str]
    settings: Distillation

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (divergence, error), unweighted; refuse models with other outputs."""
        here = next(self.student.parameters()).device
        watch = self.settings.outputs_weight > 0
        dense = to_device(batch, next(self.dense.parameters()).device)
        with torch.no_grad(), recorded(self.dense, self.dense_paths if watch else []) as targets:
            wanted = call(self.dense, dense)
        batch = to_device(batch, here)
        with recorded(self.student, self.student_paths if watch else []) as outputs:
            found = call(self.student, batch)
        valid = valid_tokens(batch)
        divergence = self._divergence(found, wanted, batch)
        errors = [
            relative_error(_rows(s, valid), _rows(t.to(here), valid))
            for number, seen in outputs.items()
            if seen
            for s, t in zip(seen, targets[number], strict=True)
        ]
        error = torch.stack(errors).mean() if errors else divergence.new_zeros(())
        return divergence, error

    def weighted(self, divergence: Tensor, error: Tensor) -> Tensor:
        """Return the loss."""
        return self.settings.logits_weight * divergence + self.settings.outputs_weight * error

    def _divergence(self, found: Any, wanted: Any, batch: Batch) -> Tensor:
        s, valid, numbers = answers_of(self.dense, found, batch)
        t = answers_of(self.dense, wanted, batch).logits
        if s.shape != t.shape:
            raise HeadError(
                f"the model returns {list(s.shape)} where the dense one returns {list(t.shape)};"
                " give the dense model that it was cut from"
            )
        s, t = s[valid], t.to(s.device)[valid]
        if not has_head(found):
            return relative_error(s, t)
        if numbers:
            return ((s - t) ** 2).sum(-1).mean() / 2
        return soft_divergence(s, t, self.settings.temperature)


def relative_error(student: Tensor, dense: Tensor) -> Tensor:
    """Return the squared error over the variance of the dense rows; shapes (rows, features)."""
    size = (dense**2).sum()
    spread = ((dense - dense.mean(0)) ** 2).sum() if len(dense) > 1 else size
    least = (1e-6 * size).clamp(min=torch.finfo(dense.dtype).tiny)  # of rows that are all alike
    return ((student - dense) ** 2).sum() / torch.maximum(spread, least)


def soft_divergence(student: Tensor, dense: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(dense || student) in nats, the mean over rows, times the temperature squared.

    Shape: logits, (rows, classes). Classes that the dense model rules out do not count.
    """
    log_q = F.log_softmax(student / temperature, -1)
    log_p = F.log_softmax(dense / temperature, -1)
    p = log_p.exp()
    terms = (p * (log_p - log_q)).masked_fill(p == 0, 0)
    return terms.sum(-1).mean() * temperature**2


def _rows(values: Tensor, valid: Tensor) -> Tensor:
    """Return one row per real token, or per sample, wide enough to be squared."""
    values = widened(values)
    return values[valid] if values.dim() == 3 else values
