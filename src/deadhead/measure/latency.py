"""The one timer, and how much faster a cut model is, beside the most that it could be."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from deadhead.errors import BudgetError, DataError
from deadhead.measure import Timer
from deadhead.measure.size import speed_ceiling
from deadhead.models.hooks import eval_mode
from deadhead.models.purpose import is_causal_lm

Inputs = Mapping[str, Tensor]
Verdict = Literal["faster", "slower", "noise"]


def verdict(speedup: float, low: float, high: float, ceiling: float) -> Verdict:
    """Tell whether a timing shows a difference: the one rule for every page and table.

    A ratio is noise if its quartiles include 1, or if it exceeds its ceiling, which a cut cannot.
    """
    if low <= 1 <= high or speedup > ceiling:
        return "noise"
    return "faster" if speedup > 1 else "slower"


def speed_words(speedup: float, low: float, high: float, ceiling: float) -> str:
    """Say a ratio as a headline: `1.06x faster`, `1.10x slower`, or `within noise`.

    >>> speed_words(0.13, 0.12, 6.2, 1.07)
    'within noise'
    """
    found = verdict(speedup, low, high, ceiling)
    if found == "noise":
        return "within noise"
    return f"{speedup if found == 'faster' else 1 / speedup:.2f}x {found}"


@dataclass(frozen=True)
class SpeedRow:
    """One paired comparison of a model before and after the cut.

    Attributes:
        setting: `forward`, `prefill` (a causal model reads a prompt) or `decode` (one token).
        batch: sequences per call.
        length: tokens per sequence; for `decode` the tokens already in the cache.
        ms_before, ms_after: median ms per call of the two models; lower is better.
        speedup: median of the pairwise ratios before / after.
        low, high: quartiles of those ratios.
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

    @property
    def verdict(self) -> Verdict:
        """Whether the timing shows a difference, see `verdict`."""
        return verdict(self.speedup, self.low, self.high, self.ceiling)

    @property
    def words(self) -> str:
        """The headline: `1.06x faster`, `1.10x slower` or `within noise`."""
        return speed_words(self.speedup, self.low, self.high, self.ceiling)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value; `SpeedRow(**value)` reads it back."""
        return asdict(self)


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
    times = paired_seconds(before, after, inputs, repeats=repeats, warmup=warmup)
    setting = "prefill" if is_causal_lm(before) else "forward"
    return _row(setting, batch, length, times, before, after)


def paired_seconds(
    before: nn.Module, after: nn.Module, inputs: Inputs, *, repeats: int, warmup: int = 0
) -> np.ndarray:
    """Time forward passes of two models in turns; shape (repeats, 2)."""
    here = {
        id(m): {name: tensor.to(_device(m)) for name, tensor in inputs.items()}
        for m in (before, after)
    }
    return _paired(before, after, lambda m: lambda: m(**here[id(m)]), repeats, warmup)


def measure_decode(
    before: nn.Module, after: nn.Module, *, length: int = 128, repeats: int = 30, warmup: int = 5
) -> SpeedRow:
    """Time one new token at batch 1 after `length` tokens in the KV cache, in turns.

    Each call gets a copy of the same cache, made outside the timing. Random tokens (seed 0).

    Cost: one prefill of `length` tokens and repeats + warmup one-token steps, per model.

    Raises:
        DataError: the model is not a causal language model with a KV cache.
        BudgetError: `repeats` is below 1.
    """
    for model in (before, after):
        if not is_causal_lm(model):
            raise DataError(
                f"{type(model).__name__} does not generate from a KV cache; decode is timed for"
                " causal language models, use measure_speed for others"
            )
    rng = torch.Generator().manual_seed(0)
    embeddings: Any = before.get_input_embeddings  # torch types attributes as tensors
    tokens = torch.randint(embeddings().num_embeddings, (1, length + 1), generator=rng)
    mask = torch.ones_like(tokens)
    caches: dict[int, Any] = {}

    def run(model: nn.Module) -> Callable[[], object]:
        where = _device(model)
        prompt, past = tokens[:, :-1].to(where), mask[:, :-1].to(where)
        if id(model) not in caches:
            out = model(input_ids=prompt, attention_mask=past, use_cache=True)
            caches[id(model)] = out.past_key_values
        step = {"input_ids": tokens[:, -1:].to(where), "attention_mask": mask.to(where)}
        cache = copy.deepcopy(caches[id(model)])
        return lambda: model(**step, past_key_values=cache, use_cache=True)

    times = _paired(before, after, run, repeats, warmup)
    return _row("decode", 1, length, times, before, after)


def measure_all(
    before: nn.Module, after: nn.Module, inputs: Inputs, *, repeats: int = 30, warmup: int = 5
) -> list[SpeedRow]:
    """Measure the forward pass and, for causal language models, decoding at the same length."""
    rows = [measure_speed(before, after, inputs, repeats=repeats, warmup=warmup)]
    if is_causal_lm(before):
        limit = getattr(before.config, "max_position_embeddings", None)
        length = min(rows[0].length, limit - 1) if limit else rows[0].length  # and the new token
        length = max(1, length)
        rows.append(measure_decode(before, after, length=length, repeats=repeats, warmup=warmup))
    return rows


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _paired(
    before: nn.Module,
    after: nn.Module,
    prepare: Callable[[nn.Module], Callable[[], object]],
    repeats: int,
    warmup: int,
) -> np.ndarray:
    """Return seconds, shape (repeats, 2): before, after. `prepare` is not timed."""
    if repeats < 1:
        raise BudgetError(f"{repeats} repeats: a timing needs at least 1")

    def seconds(model: nn.Module) -> float:
        call = prepare(model)
        timer = Timer(model)
        call()
        return timer.seconds

    with torch.inference_mode(), eval_mode(before, after):
        pairs = [[seconds(before), seconds(after)] for _ in range(warmup + repeats)]
    return np.array(pairs[warmup:])


def _row(
    setting: str, batch: int, length: int, times: np.ndarray, before: nn.Module, after: nn.Module
) -> SpeedRow:
    low, middle, high = np.quantile(times[:, 0] / times[:, 1], [0.25, 0.5, 0.75]).tolist()
    old, new = (1000 * np.median(times, axis=0)).tolist()
    device = _device(before)
    threads = f"{device.type}, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    ceiling = speed_ceiling(before, after)
    return SpeedRow(setting, batch, length, old, new, middle, low, high, ceiling, name, len(times))
