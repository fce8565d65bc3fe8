"""Architecture records: the only place that knows module names."""

from deadhead.models.architectures.layouts import (
    LAYOUTS,
    PARTS,
    HeadCounts,
    features,
    fused_by_part,
    fused_grouped,
    fused_per_head,
    rows_from,
    separate,
)
from deadhead.models.architectures.record import (
    ARCHITECTURES,
    Architecture,
    PerHead,
    Records,
    model_type_of,
    project_nothing,
    records_named,
    records_of,
    register_architecture,
)

__all__ = [
    "ARCHITECTURES",
    "LAYOUTS",
    "PARTS",
    "Architecture",
    "HeadCounts",
    "PerHead",
    "Records",
    "features",
    "fused_by_part",
    "fused_grouped",
    "fused_per_head",
    "model_type_of",
    "project_nothing",
    "records_named",
    "records_of",
    "register_architecture",
    "rows_from",
    "separate",
]
