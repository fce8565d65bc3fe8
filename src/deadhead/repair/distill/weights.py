"""The weights that a distillation trains, which of them are kept, and what comes back as it was."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deadhead.errors import HeadError
from deadhead.models.blocks import is_conv1d, output_rows
from deadhead.models.heads import HeadModel
from deadhead.models.hooks import eval_mode
from deadhead.repair.distill.loss import output_paths
from deadhead.tasks import Task


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
    """Heads that a mask has zeroed: training would bring them back to life."""

    def __init__(self, view: HeadModel):
        self.view, self.paths = view, output_paths(view)
        self.columns: list[Tensor] = []  # per block: features of heads whose whole slice is zero
        for block in view.blocks:
            zero = output_rows(block.output).detach().unflatten(1, (-1, block.head_dim)) == 0
            self.columns.append(zero.all(2).all(0).repeat_interleave(block.head_dim))

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Keep what they make from their output projection, so that they get no gradient.

        Enter it once adapters are there: they are silenced as well.
        """
        with ExitStack() as stack:
            for path, columns in zip(self.paths, self.columns, strict=True):
                if columns.any():
                    module = self.view.model.get_submodule(path)
                    hook = partial(_silence, columns)
                    stack.callback(module.register_forward_pre_hook(hook).remove)
            yield

    def zero_(self) -> None:
        """Make their output slices zero again: merged adapters have none."""
        with torch.no_grad():
            for block, columns in zip(self.view.blocks, self.columns, strict=True):
                if columns.any():
                    output_rows(block.output).detach()[:, columns] = 0


def _silence(columns: Tensor, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return args[0].masked_fill(columns.to(args[0].device), 0), *args[1:]


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors as they are now."""
    return [t.detach().clone() for t in tensors]


def put_back_(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Put copies back, bit for bit."""
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


Selection = Task | Callable[[nn.Module], float]


@dataclass(frozen=True)
class Judge:
    """A number that says how good a model is: its name, its direction, and how it is measured."""

    metric: str
    greater_is_better: bool
    measure: Callable[[nn.Module], float]

    def __call__(self, model: nn.Module) -> float:
        """Judge a model without gradients; it is left as found."""
        with eval_mode(model), torch.no_grad():
            return float(self.measure(model))

    def better(self, new: float, old: float) -> bool:
        """Whether a value is better than another; NaN is worse than anything."""
        if math.isnan(new) or math.isnan(old):
            return not math.isnan(new)
        return new > old if self.greater_is_better else new < old


def judge_of(selection: Selection) -> Judge:
    """Judge by a task, or by a function of which more is better."""
    given: Any = selection
    if hasattr(given, "evaluate"):
        return Judge(given.metric, given.greater_is_better, lambda m: given.evaluate(m).value)
    return Judge(getattr(given, "__name__", "selection"), True, given)


@dataclass
class Best:
    """The best weights so far.

    Attributes:
        judge: what is best.
        before: value of the weights that the model came with.
        value: of the best.
        step: where they were; 0 is before training.
        weights: copies of them; None are those that it came with.
        in_vain: looks since then.
    """

    judge: Judge
    before: float
    value: float = math.nan
    step: int = 0
    weights: list[Tensor] | None = field(default=None, repr=False)
    in_vain: int = 0

    def __post_init__(self) -> None:
        self.value = self.before

    def consider(self, step: int, value: float, trained: Sequence[Tensor]) -> None:
        """Keep weights if they are better; of trained ones that are as good, the later."""
        better = self.judge.better(value, self.value)
        self.in_vain = 0 if better else self.in_vain + 1
        if better or (self.weights is not None and value == self.value):
            self.value, self.step, self.weights = value, step, copies(trained)


def cut_projections(view: HeadModel, sleepers: Sleepers) -> dict[str, nn.Module]:
    """Return the projections, by path, of the blocks that lost heads; those of no head left out."""
    paths = {module: path for path, module in view.model.named_modules()}
    found: dict[str, nn.Module] = {}
    for block, columns in zip(view.blocks, sleepers.columns, strict=True):
        if block.n_heads == block.original.n_heads and not columns.any():
            continue
        for module in (*block.inputs, block.output):
            if block.n_heads:
                found[paths[module]] = module
    if not found:
        raise HeadError(
            "no projection can have an adapter: no block lost some of its heads only; train the"
            " weights themselves (lora=0)"
        )
    return found


@contextmanager
def adapted(
    model: nn.Module, projections: dict[str, nn.Module], rank: int, best: Best
) -> Iterator[None]:
    """Put adapters on projections; they are merged in the end if they are the best weights.

    They are scaled by 2, as is usual. Source: Hu et al. 2021 (arXiv 2106.09685).
    """
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="|".join(map(re.escape, projections)),
        fan_in_fan_out=any(map(is_conv1d, projections.values())),
    )
    tuned = LoraModel(model, config, "default")
    try:
        yield
    finally:
        (tuned.unload if best.weights is None else tuned.merge_and_unload)()


class Weights:
    """The weights of a model that change, and what they were."""

    def __init__(self, view: HeadModel, rank: int):
        self.view, self.rank = view, rank
        self.sleepers = Sleepers(view)
        self.projections = cut_projections(view, self.sleepers) if rank else {}
        weights: list[Any] = [module.weight for module in self.projections.values()]
        self.changing: list[nn.Parameter] = weights if rank else trainable(view.model)
        self.start = copies(self.changing)
        half = any(p.element_size() < 4 for p in self.changing)
        # in the end the best weights are merged or rounded, and are no longer what was judged
        self.approximate = half or rank > 0

    @contextmanager
    def training(self, best: Best) -> Iterator[list[nn.Parameter]]:
        """Yield what to train; however the context is left, the model then has the best of them."""
        model, trained = self.view.model, self.changing
        try:
            with wide(model), ExitStack() as stack:
                if self.rank:
                    stack.enter_context(adapted(model, self.projections, self.rank, best))
                    trained = [p for p in model.parameters() if p.requires_grad]
                model.requires_grad_(False)
                for parameter in trained:
                    parameter.requires_grad_(True)
                stack.enter_context(self.sleepers.silenced())
                try:
                    yield trained
                finally:
                    if best.weights is not None:
                        put_back_(trained, best.weights)
        finally:
            self.sleepers.zero_()
            if best.weights is None:
                self.undo_()

    def undo_(self) -> None:
        """Give the model the weights that it came with, bit for bit."""
        put_back_(self.changing, self.start)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return every weight that is not frozen, without token embeddings and what is tied to them.

    They are most of a small model, and no head ever touched them.
    """
    given: Any = model
    embeddings = given.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    left_out = set() if embeddings is None else {id(p) for p in embeddings.parameters()}
    found = [p for p in model.parameters() if p.requires_grad and id(p) not in left_out]
    if not found:
        raise HeadError(
            "every weight of the model is frozen; call model.requires_grad_(True), or train"
            " adapters (lora=8)"
        )
    return found
