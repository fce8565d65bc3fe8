"""Measure: the size and the latency of a model, and the direction of a metric."""

from deadhead.measure.latency import (
    SpeedRow,
    Timer,
    measure_all,
    measure_decode,
    measure_speed,
    paired_seconds,
    speed_words,
)
from deadhead.measure.metric import Metric
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

__all__ = [
    "Countable",
    "CutSummary",
    "Metric",
    "ModelSize",
    "SpeedRow",
    "Timer",
    "count_left",
    "cut_summary",
    "measure_all",
    "measure_decode",
    "measure_speed",
    "model_size",
    "paired_seconds",
    "parameter_count",
    "parameters_read",
    "speed_ceiling",
    "speed_words",
]
