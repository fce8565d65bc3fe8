"""Architecture records: the only place that knows module names."""

from deadhead.models.architectures.layouts import (
    PARTS,
    HeadCounts,
    features,
    fused_by_part,
    fused_per_head,
    rows_from,
    separate,
)
from deadhead.models.architectures.record import (
    ARCHITECTURES,
    Architecture,
    architecture_named,
    architecture_of,
    model_type_of,
    project_nothing,
    register_architecture,
)

__all__ = [
    "ARCHITECTURES",
    "PARTS",
    "Architecture",
    "HeadCounts",
    "architecture_named",
    "architecture_of",
    "features",
    "fused_by_part",
    "fused_per_head",
    "model_type_of",
    "project_nothing",
    "register_architecture",
    "rows_from",
    "separate",
]
