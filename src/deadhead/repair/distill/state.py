"""What a distillation gives back as it found it, and the heads that it must not wake."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from deadhead.models.blocks import output_rows
from deadhead.models.heads import HeadModel
from deadhead.repair.distill.loss import output_paths


@contextmanager
def same_surroundings(seed: int) -> Iterator[None]:
    """Seed every random generator; give them, the environment and the current GPU back."""
    states, environment = (random.getstate(), np.random.get_state()), dict(os.environ)
    gpus = range(torch.cuda.device_count())
    current = torch.cuda.current_device() if gpus else None
    try:
        with torch.random.fork_rng(list(gpus)):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if current is not None:
            torch.cuda.set_device(current)
        for name in [n for n in os.environ if n not in environment]:
            del os.environ[name]
        os.environ.update(environment)


@contextmanager
def wide(model: nn.Module) -> Iterator[bool]:
    """Hold half-precision numbers in float32; yields whether there are any.

    Flags, gradients, dtypes and devices are as before when the context is left, and every
    parameter is the same object.
    """
    training = [(m, m.training) for m in model.modules()]
    tensors = [*model.parameters(), *model.buffers()]
    found = [(t, t.dtype, t.device, t.requires_grad) for t in tensors]
    half = [t for t in tensors if t.is_floating_point() and t.element_size() < 4]
    try:
        for tensor in half:
            tensor.data = tensor.data.float()
        yield bool(half)
    finally:
        for tensor, dtype, device, flag in found:
            tensor.data = tensor.data.to(device, dtype)
            tensor.grad = None
            tensor.requires_grad_(flag)
        for module, flag in training:
            module.training = flag


class Sleepers:
    """Heads that a mask has zeroed: they are there, with an output slice of zeros.

    Training would bring them back to life.
    """

    def __init__(self, view: HeadModel):
        self.view, self.paths = view, output_paths(view)
        self.columns = [_zero_columns(block.output, block.head_dim) for block in view.blocks]

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Keep what they make from their output projection, so that they get no gradient.

        Enter it once adapters are there: they are silenced as well.
        """
        with ExitStack() as stack:
            for path, columns in zip(self.paths, self.columns, strict=True):
                if columns.any():
                    module = self.view.model.get_submodule(path)
                    stack.callback(module.register_forward_pre_hook(_silence(columns)).remove)
            yield

    def zero_(self) -> None:
        """Make their output slices zero again: merged adapters have none."""
        with torch.no_grad():
            for block, columns in zip(self.view.blocks, self.columns, strict=True):
                if columns.any():
                    output_rows(block.output).detach()[:, columns] = 0


def _zero_columns(output: nn.Module, head_dim: int) -> Tensor:
    """Return which input features belong to heads whose whole slice is zero; shape (width,)."""
    slices = output_rows(output).detach().unflatten(1, (-1, head_dim))
    return (slices == 0).all(2).all(0).repeat_interleave(head_dim)


def _silence(columns: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0].masked_fill(columns.to(args[0].device), 0), *args[1:]

    return hook


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors as they are now."""
    return [t.detach().clone() for t in tensors]


def put_back_(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Put copies back, bit for bit."""
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
