"""Measure: the size and the latency of a model, and the direction of a metric."""

from typing import TYPE_CHECKING

from deadhead.files.lazy import lazy_exports

if TYPE_CHECKING:
    from deadhead.measure.latency import (
        SpeedRow,
        Timer,
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
