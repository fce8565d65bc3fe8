"""How much faster a cut model is, measured beside the most it could be."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deadhead.errors import BudgetError, DataError

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class SpeedRow:
    """One paired comparison of a model before and after the cut.

    Unit: ms per call (lower is better); speedup is before / after (higher is better).

    Attributes:
        setting: `forward`, `prefill` (a causal model reads a prompt) or `decode` (one token).
        batch: sequences per call.
        length: tokens per sequence; for `decode` the tokens already in the cache.
        ms_before: median time of the model as it was given.
        ms_after: median time of the cut model.
        speedup: median of the pairwise ratios before / after.
        low: lower quartile of those ratios.
        high: upper quartile of those ratios.
        ceiling: parameters read per token before / after, see `speed_ceiling`.
        device: where it ran, e.g. `cpu, 2 threads`.
        repeats: number of pairs.
    """

    setting: str
    batch: int
    length: int
    ms_before: float
    ms_after: float
    speedup: float
    low: float
    high: float
    ceiling: float
    device: str = ""
    repeats: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value; `SpeedRow(**value)` reads it back."""
        return asdict(self)


def parameter_count(model: nn.Module) -> int:
    """Count parameters; a tensor that is shared (tied, or a shared layer) counts once."""
    return sum(p.numel() for p in model.parameters())


def parameters_read(model: nn.Module) -> int:
    """Count the parameters that every token passes through; shared tensors once.

    That is every parameter except the tables of `nn.Embedding` modules (words, positions, types,
    relative biases), of which a token reads one row. A table that is also the weight of another
    module, as of a tied output head, is read in full and counts.

    Not covered: a mixture of experts counts all its experts; a pooler or classifier counts though
    it sees one token per sequence; the KV cache and activations are not parameters.
    """
    read = {
        id(p): p.numel()
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for p in module.parameters(recurse=False)
    }
    return sum(read.values())


def speed_ceiling(before: nn.Module, after: nn.Module) -> float:
    """Divide the parameters read before by those read after.

    This bounds the speedup of a step that is limited by reading weights (decoding at batch 1), and
    the speedup of all linear layers. Long inputs can go beyond it: the part of attention that is
    quadratic in the length has no parameters, and shrinks with the heads.
    """
    read = parameters_read(after)
    return parameters_read(before) / read if read else float("nan")


def measure_speed(
    before: nn.Module, after: nn.Module, inputs: Inputs, *, repeats: int = 30, warmup: int = 5
) -> SpeedRow:
    """Time one forward pass of both models on the same inputs, in turns.

    The calls alternate before, after, before, after: a machine that slows down meanwhile slows
    both. Models run in eval mode, and come back in the mode that they were in.

    Cost: 2 * (repeats + warmup) forward passes.

    Raises:
        DataError: there are no inputs.
        BudgetError: `repeats` is below 1.
    """
    if not inputs:
        raise DataError("there are no inputs to time; give at least input_ids")
    first = inputs.get("input_ids", next(iter(inputs.values())))
    batch, length = first.shape[0], first.shape[1] if first.ndim > 1 else 1
    here = {id(m): _move(inputs, m) for m in (before, after)}

    def run(model: nn.Module) -> Callable[[], object]:
        return lambda: model(**here[id(model)])

    times = _paired_times(before, after, run, repeats, warmup)
    setting = "prefill" if _is_causal_lm(before) else "forward"
    return _row(setting, batch, length, times, before, after)


def measure_decode(
    before: nn.Module,
    after: nn.Module,
    *,
    length: int = 128,
    repeats: int = 30,
    warmup: int = 5,
) -> SpeedRow:
    """Time one new token at batch 1 after `length` tokens in the KV cache, in turns.

    Each call gets a copy of the same cache, made outside the timing. Random tokens (seed 0).

    Cost: one prefill of `length` tokens and repeats + warmup one-token steps, per model.

    Raises:
        DataError: the model is not a causal language model with a KV cache.
        BudgetError: `repeats` is below 1.
    """
    for model in (before, after):
        if not _is_causal_lm(model):
            raise DataError(
                f"{type(model).__name__} does not generate from a KV cache; decode is timed for"
                " causal language models, use measure_speed for others"
            )
    rng = torch.Generator().manual_seed(0)
    embeddings: Any = before.get_input_embeddings  # torch types attributes as tensors
    vocabulary = embeddings().num_embeddings
    tokens = torch.randint(vocabulary, (1, length + 1), generator=rng)
    mask = torch.ones_like(tokens)

    def run(model: nn.Module) -> Callable[[], object]:
        where = _device(model)
        prompt, seen = tokens[:, :-1].to(where), mask[:, :-1].to(where)
        if id(model) not in caches:
            out = model(input_ids=prompt, attention_mask=seen, use_cache=True)
            caches[id(model)] = out.past_key_values
        step = {"input_ids": tokens[:, -1:].to(where), "attention_mask": mask.to(where)}
        cache = copy.deepcopy(caches[id(model)])
        return lambda: model(**step, past_key_values=cache, use_cache=True)

    caches: dict[int, Any] = {}
    times = _paired_times(before, after, run, repeats, warmup)
    return _row("decode", 1, length, times, before, after)


def measure_all(
    before: nn.Module, after: nn.Module, inputs: Inputs, *, repeats: int = 30, warmup: int = 5
) -> list[SpeedRow]:
    """Measure the forward pass and, for causal language models, decoding at the same length."""
    rows = [measure_speed(before, after, inputs, repeats=repeats, warmup=warmup)]
    if _is_causal_lm(before):
        length = max(1, _decode_length(before, rows[0].length))
        rows.append(measure_decode(before, after, length=length, repeats=repeats, warmup=warmup))
    return rows


def _decode_length(model: nn.Module, length: int) -> int:
    """Leave room for the new token in models with a fixed number of positions."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return min(length, limit - 1) if limit else length


def _is_causal_lm(model: nn.Module) -> bool:
    config, can = getattr(model, "config", None), getattr(model, "can_generate", None)
    return bool(can and can()) and not getattr(config, "is_encoder_decoder", False)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _move(inputs: Inputs, model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.to(_device(model)) for name, tensor in inputs.items()}


def _paired_times(
    before: nn.Module,
    after: nn.Module,
    prepare: Callable[[nn.Module], Callable[[], object]],
    repeats: int,
    warmup: int,
) -> np.ndarray:
    """Return seconds, shape (repeats, 2): before, after. `prepare` is not timed."""
    if repeats < 1:
        raise BudgetError(f"{repeats} repeats: a timing needs at least 1")
    pairs = []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(_evaluating((before, after)))
        for _ in range(warmup + repeats):
            pairs.append([_seconds(prepare(m), _device(m)) for m in (before, after)])
    return np.array(pairs[warmup:])


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":  # kernels are queued: without this one times the queueing
        torch.cuda.synchronize(device)


@contextmanager
def _evaluating(models: Iterable[nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def _row(
    setting: str, batch: int, length: int, times: np.ndarray, before: nn.Module, after: nn.Module
) -> SpeedRow:
    ratios = times[:, 0] / times[:, 1]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    ms = 1000 * np.median(times, axis=0)
    return SpeedRow(
        setting=setting,
        batch=batch,
        length=length,
        ms_before=float(ms[0]),
        ms_after=float(ms[1]),
        speedup=float(middle),
        low=float(low),
        high=float(high),
        ceiling=speed_ceiling(before, after),
        device=_device_name(_device(before)),
        repeats=len(times),
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
