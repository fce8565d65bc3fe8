"""Measure: the size and the latency of a model."""

from deadhead.measure.speed import (
    SpeedRow,
    measure_all,
    measure_decode,
    measure_speed,
    parameter_count,
    parameters_read,
    speed_ceiling,
)

__all__ = [
    "SpeedRow",
    "measure_all",
    "measure_decode",
    "measure_speed",
    "parameter_count",
    "parameters_read",
    "speed_ceiling",
]
