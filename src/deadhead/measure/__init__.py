"""Measure: the one timer; the size and the latency of a model."""

import time
from typing import TYPE_CHECKING

import torch
from torch import nn

from deadhead.files import lazy_exports

if TYPE_CHECKING:
    from deadhead.measure.latency import (
        SpeedRow,
        measure_all,
        measure_decode,
        measure_speed,
        paired_seconds,
        speed_words,
    )
    from deadhead.measure.size import (
        Countable,
        CutSummary,
        ModelSize,
        count_left,
        cut_summary,
        model_size,
        parameter_count,
        parameters_read,
        speed_ceiling,
    )

__getattr__, __dir__ = lazy_exports(__name__, __file__)


class Timer:
    """Measure wall time from its creation on, of any device.

    Kernels of an accelerator are queued, so both ends wait for every device that `models` have
    parameters on.
    """

    def __init__(self, *models: nn.Module):
        queued = torch.accelerator.current_accelerator()  # cuda, mps, xpu, ...
        places = {p.device for model in models for p in model.parameters()}
        self._devices = [p for p in places if queued is not None and p.type == queued.type]
        self._begun = self._now()

    @property
    def seconds(self) -> float:
        """Seconds since the timer was made."""
        return self._now() - self._begun

    def _now(self) -> float:
        for device in self._devices:
            torch.accelerator.synchronize(device)
        return time.perf_counter()
